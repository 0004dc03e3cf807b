"""What PCGrad and GradVac have in common: every task's gradient meets all others, one by one in
random order.

Task i starts with `g_i' = g_i`, and each meeting with a task j adds a multiple of the original
`g_j` to it. As `g_i'` thus stays a combination of the K gradients, the Gramian tells all there is
to know. Both methods look at angles only and add in proportion to `‖g_i'‖`, so everything is
computed on unit gradients `u_i = g_i / ‖g_i‖` and the norms come in again at the end: no scale of a
gradient can overflow or drown another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import GramianWeighting, Weights
from mtrl_fairgrad.weighting.options import Choice
from mtrl_fairgrad.weighting.solvers.problem import check_gramian


class Meeting(NamedTuple):
    """Every task i, with its gradient as modified so far, meets the original gradient of one other
    task j.
    """

    other: Tensor
    """`[..., K, 1]` int64, j."""
    product: Tensor
    """`[..., K, 1]` float64, `g_i'ᵀg_j / (‖g_i‖ ‖g_j‖)`."""
    square: Tensor
    """`[..., K, 1]` float64, `‖g_i'‖² / ‖g_i‖²`."""
    counts: Tensor
    """`[..., K, 1]` bool; False where j is i itself, a gradient is zero or the Gramian is not
    finite.
    """


class RandomOrderWeighting(GramianWeighting):
    """A Gramian weighting that lets every task's gradient meet all others in random order.

    Args:
        reduction: `"sum"` or `"mean"` of the modified gradients.

    Raises:
        ValueError: any other reduction.
    """

    reduction = Choice("sum", "mean")

    def __init__(self, reduction: str = "sum") -> None:
        super().__init__()
        self.reduction = reduction

    def draw(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Orders `[..., K, K]` int64: row i is a permutation of all tasks, in which task i skips
        itself.

        Raises:
            ValueError: not initialised, or not one generator per leading element.
        """

        def orders(generator: torch.Generator) -> Tensor:
            shape, device = (self.tasks or 0,) * 2, generator.device
            return torch.rand(
                shape, generator=generator, dtype=torch.float64, device=device
            ).argsort(-1)

        return self._stack_draws(generators, orders)

    def _meet_all(
        self, gramian: Tensor, noise: Tensor | None, push: Callable[[Meeting], Tensor]
    ) -> Weights:
        """Weights of the combined gradient after every task met all others.

        Args:
            gramian: `[..., K, K]`.
            noise: orders `[..., K, K]` as `draw` returns them.
            push: the multiple of `g_j / ‖g_j‖` to add to `g_i' / ‖g_i‖`, `[..., K, 1]`; whatever it
                answers where a meeting does not count is ignored.
        """
        check_gramian(gramian)
        order = self._require_noise(noise).to(gramian.device)
        if order.shape != gramian.shape:
            raise ValueError(
                f"noise of shape {tuple(order.shape)} is not allowed: give orders [..., K, K] as "
                "method.draw returns "
                f"them, for a Gramian of shape {tuple(gramian.shape)}."
            )
        cosines, norms, active = _unit_gradients(gramian)
        tasks = gramian.shape[-1]
        own = torch.arange(tasks, device=gramian.device)[:, None]
        rows = (
            torch.eye(tasks, dtype=cosines.dtype, device=cosines.device).expand_as(cosines).clone()
        )
        pairs = active[..., :, None] & active[..., None, :]
        counts = pairs.gather(-1, order) & (order != own)
        changed = torch.zeros_like(norms)
        for place in range(tasks):
            other = order[..., place, None]
            products = rows @ cosines
            square = (products * rows).sum(-1, keepdim=True)
            meeting = Meeting(other, products.gather(-1, other), square, counts[..., place, None])
            step = torch.where(meeting.counts, push(meeting), 0.0)
            rows.scatter_add_(-1, other, step)
            changed += step[..., 0] != 0
        weights = torch.where(active, (norms[..., None, :] @ rows)[..., 0, :] / norms, 0.0)
        if self.reduction == "mean":
            weights = weights / tasks
        finite = gramian.isfinite().all(-1).all(-1)
        share = changed.sum(-1) / max(tasks * (tasks - 1), 1)
        return self._result(
            gramian,
            torch.where(finite[..., None], weights, torch.nan),
            changed=torch.where(finite, share, torch.nan),
        )

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"reduction={self.reduction}"


def _unit_gradients(gramian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines `[..., K, K]`, norms `[..., K]` and whether a task has a gradient, `[..., K]`.

    Cosines of tasks without one are 0, and so is everything of an element that is not finite.
    """
    gramian = gramian.detach().double()
    gramian = torch.where(gramian.isfinite().all(-1).all(-1)[..., None, None], gramian, 0.0)
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    active = norms > 0
    scale = torch.where(active, 1 / norms, 0.0)
    return gramian * scale[..., :, None] * scale[..., None, :], norms, active
