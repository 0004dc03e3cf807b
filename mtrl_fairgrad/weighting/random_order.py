"""The pairwise loop of PCGrad and GradVac.

Each task i starts with `g_i' = g_i` and visits all other tasks j in random order; each step adds a
multiple of the original `g_j`. So `g_i'` stays a combination of the K gradients, and the Gramian is
sufficient. Both methods depend on angles only and add in proportion to `‖g_i'‖`. Therefore
everything is computed on unit gradients `u_i = g_i / ‖g_i‖`, and the norms are applied at the end:
gradients of very different scales neither overflow nor vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import GramianWeighting, Weights, weights_with_progress
from mtrl_fairgrad.weighting.options import Choice
from mtrl_fairgrad.weighting.solvers.problem import check_gramian


class PairStep(NamedTuple):
    """One step of every task i: its modified gradient visits the original gradient of a task j."""

    other: Tensor
    """`[..., K, 1]` int64, j."""
    product: Tensor
    """`[..., K, 1]` float64, `g_i'ᵀg_j / (‖g_i‖ ‖g_j‖)`."""
    square: Tensor
    """`[..., K, 1]` float64, `‖g_i'‖² / ‖g_i‖²`."""
    valid: Tensor
    """`[..., K, 1]` bool; False where j = i, a gradient is zero or the Gramian is not finite."""


class RandomOrderWeighting(GramianWeighting):
    """A Gramian weighting in which every task's gradient visits all others in random order.

    Args:
        reduction: `"sum"` or `"mean"` of the modified gradients.

    Raises:
        ValueError: the reduction is not allowed.
    """

    reduction = Choice("sum", "mean")

    def __init__(self, reduction: str = "sum") -> None:
        super().__init__()
        self.reduction = reduction

    def draw(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw orders `[..., K, K]` int64: row i is a permutation of all tasks.

        Task i skips itself in its permutation.

        Raises:
            ValueError: not initialised, or not one generator per leading element.
        """

        def orders(generator: torch.Generator) -> Tensor:
            shape, device = (self.tasks or 0,) * 2, generator.device
            return torch.rand(
                shape, generator=generator, dtype=torch.float64, device=device
            ).argsort(-1)

        return self._stack_draws(generators, orders)

    def _order(self, gramian: Tensor, noise: Tensor | None) -> Tensor:
        """Return the orders `[..., K, K]` that `draw` returned.

        Raises:
            ValueError: a Gramian that is not `[..., K, K]`, or no noise of its shape.
        """
        check_gramian(gramian)
        order = self._require_noise(noise)
        if order.shape != gramian.shape:
            raise ValueError(
                f"noise of shape {tuple(order.shape)} is not allowed: give orders [..., K, K] as "
                f"method.draw returns them, for a Gramian of shape {tuple(gramian.shape)}."
            )
        return order

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        return f"reduction={self.reduction}"


def visit_pairs(
    gramian: Tensor, order: Tensor, reduction: str, push: Callable[[PairStep], Tensor]
) -> Weights:
    """Compute the weights of the combined gradient after every task visited all others.

    Args:
        gramian: `[..., K, K]` on the CPU, where its many small operations are fastest.
        order: `[..., K, K]` as `draw` returns it.
        reduction: `"sum"` or `"mean"` of the modified gradients.
        push: returns the multiple of `g_j / ‖g_j‖` to add to `g_i' / ‖g_i‖`, `[..., K, 1]`;
            ignored where the step is not valid.
    """
    cosines, norms, active = _unit_gradients(gramian)
    tasks = gramian.shape[-1]
    own = torch.arange(tasks)[:, None]
    rows = torch.eye(tasks, dtype=cosines.dtype).expand_as(cosines).clone()
    pairs = active[..., :, None] & active[..., None, :]
    counts = pairs.gather(-1, order) & (order != own)
    changed = torch.zeros_like(norms)
    for position in range(tasks):
        other = order[..., position, None]
        products = rows @ cosines
        square = (products * rows).sum(-1, keepdim=True)
        visit = PairStep(other, products.gather(-1, other), square, counts[..., position, None])
        step = torch.where(visit.valid, push(visit), 0.0)
        rows.scatter_add_(-1, other, step)
        changed += step[..., 0] != 0
    weights = torch.where(active, (norms[..., None, :] @ rows)[..., 0, :] / norms, 0.0)
    if reduction == "mean":
        weights = weights / tasks
    finite = gramian.isfinite().all(-1).all(-1)
    share = changed.sum(-1) / max(tasks * (tasks - 1), 1)
    return weights_with_progress(
        gramian,
        torch.where(finite[..., None], weights, torch.nan),
        changed=torch.where(finite, share, torch.nan),
    )


def _unit_gradients(gramian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return cosines `[..., K, K]`, norms `[..., K]` and whether a task has a gradient, `[..., K]`.

    Cosines of tasks without gradient are 0, and so are all cosines of an element that is not
    finite.
    """
    gramian = gramian.detach().double()
    gramian = torch.where(gramian.isfinite().all(-1).all(-1)[..., None, None], gramian, 0.0)
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    active = norms > 0
    scale = torch.where(active, 1 / norms, 0.0)
    return gramian * scale[..., :, None] * scale[..., None, :], norms, active
