"""GradVac, the gradient vaccine.

Wang, Tsvetkov, Firat and Cao, "Gradient Vaccine: Investigating and Improving Multi-task
Optimization in Massively Multilingual Models", 2021, arXiv 2010.05874.

PCGrad acts on negative cosines only; GradVac acts on any cosine φ of `g_i'` and `g_j` below the
pair's moving average φ̂_ij. Each task's gradient visits the others in random order, and (the
paper's Algorithm 1)

    if φ < φ̂_ij:  g_i' ← g_i' + ‖g_i'‖ (φ̂_ij √(1−φ²) − φ √(1−φ̂_ij²)) / (‖g_j‖ √(1−φ̂_ij²)) · g_j
    φ̂_ij ← (1−β) φ̂_ij + β φ,      d = Σ_i g_i'

after which their cosine is φ̂_ij. The targets φ̂ start at 0, where this is PCGrad. φ̂_ij is updated
at every pair here, in the paper, in TorchJD and in LibMTL's repository. LibMTL's release 1.1.5
updates it only at pairs that changed `g_i'`, so that its targets cannot rise. Both libraries'
default is β = 0.5, the paper's 0.01.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import Weights
from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.options import Number
from mtrl_fairgrad.weighting.random_order import PairStep, RandomOrderWeighting, visit_pairs

LARGEST_TARGET = 1 - 1e-6
"""Largest cosine to aim at (0.08°). A cosine of 1 would need an infinite multiple of `g_j`, and the
averages approach it for tasks with equal gradients."""


class GradVac(RandomOrderWeighting):
    """Rotate gradients towards their average angles.

    Random, with state; costs one Jacobian and K steps on K×K matrices.

    Args:
        beta: rate at which the targets follow the observed cosines, in (0, 1].
        reduction: the direction is the `"sum"` of the modified gradients, as in the paper's
            algorithm, or their `"mean"`.

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "gradvac"

    beta = Number(above=0, at_most=1)
    targets: Tensor

    def __init__(self, beta: float = 0.01, reduction: str = "sum") -> None:
        super().__init__(reduction)
        self.beta = beta

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Set the sizes and all target cosines to 0; no template is needed."""
        super().init(tasks, batch_shape, template)
        self._add_state("targets", (*self.batch_shape, tasks, tasks))
        return self

    @torch.no_grad()
    def forward(self, gramian: Tensor, noise: Tensor | None = None) -> Weights:
        """Compute weights and update the targets.

        Args:
            gramian: `[..., K, K]`.
            noise: the orders `[..., K, K]` that `draw` returned.

        Returns:
            Weights `[..., K]`, 0 for tasks without gradient, with the diagnostics

            * `min_progress` `[...]`, the smallest `g_iᵀd`;
            * `changed` `[...]`, the share of the K(K−1) pairs below their target.

            NaN for an element of the leading axes with a non-finite entry. Its targets do not
            change, and neither do those of pairs with a zero gradient.

        Raises:
            ValueError: not initialised, a shape that differs, or no noise of the right shape.
        """
        self._check_shape(gramian.shape[:-1])
        order = self._order(gramian, noise)
        result, targets = _visit(gramian, order, self.targets, self.beta, self.reduction)
        self.targets.copy_(targets)
        return result

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        return f"beta={self.beta:g}, {super().extra_repr()}"


@on_host
def _visit(
    gramian: Tensor, order: Tensor, targets: Tensor, beta: float, reduction: str
) -> tuple[Weights, Tensor]:
    """Return the weights and the new targets."""
    # ‖g_i'‖² is a sum of rounded products that may cancel. Below this it is rounding error, and
    # there is no cosine.
    precision = torch.promote_types(gramian.dtype, torch.float32)
    smallest = 10 * gramian.shape[-1] * torch.finfo(precision).eps
    targets = targets.clone()

    def vaccinate(step: PairStep) -> Tensor:
        counts = step.valid & (step.square > smallest)
        length = step.square.clamp(min=smallest).sqrt()
        cosine = (step.product / length).clamp(-1, 1)
        average = targets.gather(-1, step.other)
        updated = torch.where(counts, average.lerp(cosine, beta), average)
        targets.scatter_(-1, step.other, updated)
        target = average.clamp(max=LARGEST_TARGET)
        cotangent = target / (1 - target.square()).sqrt()
        push = length * ((1 - cosine.square()).sqrt() * cotangent - cosine)
        return torch.where(counts & (cosine < target), push, 0.0)

    return visit_pairs(gramian, order, reduction, vaccinate), targets
