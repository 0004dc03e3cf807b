"""GradVac, the gradient vaccine.

Wang, Tsvetkov, Firat and Cao, "Gradient Vaccine: Investigating and Improving Multi-task
Optimization in Massively Multilingual Models", 2021, arXiv 2010.05874.

PCGrad acts on negative cosines only; GradVac on any cosine φ of `g_i'` and `g_j` below the pair's
usual one, φ̂_ij. Each task's gradient meets the others in random order, and (the paper's Algorithm
1)

    if φ < φ̂_ij:  g_i' ← g_i' + ‖g_i'‖ (φ̂_ij √(1−φ²) − φ √(1−φ̂_ij²)) / (‖g_j‖ √(1−φ̂_ij²)) · g_j
    φ̂_ij ← (1−β) φ̂_ij + β φ,      d = Σ_i g_i'

after which their cosine is φ̂_ij. The targets φ̂ start at 0, where this is PCGrad. Of two public
codes, TorchJD follows every meeting as the paper does; LibMTL moves φ̂_ij only in meetings that
changed `g_i'`, so its targets cannot rise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import Weights
from mtrl_fairgrad.weighting.options import Number
from mtrl_fairgrad.weighting.random_order import Meeting, RandomOrderWeighting

LARGEST_TARGET = 1 - 1e-6
"""Cosine to aim at, at most (0.08°). A cosine of 1 takes an infinite multiple of `g_j`, and targets
come as close to it as rounding allows for tasks that were always alike."""


class GradVac(RandomOrderWeighting):
    """Moves gradients to their usual angles. Random, with state; costs one Jacobian and K steps on
    K×K matrices.

    Args:
        beta: how fast the targets follow the cosines met, in (0, 1].
        reduction: the direction is the `"sum"` of the modified gradients, as in the paper's
            algorithm, or their `"mean"`.

    Raises:
        ValueError: a value that is not allowed.
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
        """Set all target cosines to 0; the template is not needed."""
        super().init(tasks, batch_shape, template)
        self._add_state("targets", (*self.batch_shape, tasks, tasks))
        return self

    @torch.no_grad()
    def forward(self, gramian: Tensor, noise: Tensor | None = None) -> Weights:
        """Weights for Gramians; the targets move.

        Args:
            gramian: `[..., K, K]`.
            noise: the orders `[..., K, K]` that `draw` returned.

        Returns:
            Weights `[..., K]`, 0 for tasks without gradient, with the diagnostics

            * `min_progress` `[...]`, the smallest `g_iᵀd`;
            * `changed` `[...]`, the share of the K(K−1) meetings below the target.

            NaN for an element of the leading axes with a non-finite entry, whose targets stay. So
            do the targets of pairs of which one has no gradient.

        Raises:
            ValueError: not initialised, another shape, no noise, or noise of another shape.
        """
        self._check_shape(gramian.shape[:-1])
        # ‖g_i'‖² is a sum of rounded products that may cancel: less than this is nothing, and has
        # no cosine.
        nothing = (
            10
            * gramian.shape[-1]
            * torch.finfo(torch.promote_types(gramian.dtype, torch.float32)).eps
        )

        def vaccinate(meeting: Meeting) -> Tensor:
            counts = meeting.counts & (meeting.square > nothing)
            length = meeting.square.clamp(min=nothing).sqrt()
            cosine = (meeting.product / length).clamp(-1, 1)
            usual = self.targets.gather(-1, meeting.other)
            followed = torch.where(counts, usual.lerp(cosine, self.beta), usual)
            self.targets.scatter_(-1, meeting.other, followed)
            target = usual.clamp(max=LARGEST_TARGET)
            cotangent = target / (1 - target.square()).sqrt()
            push = length * ((1 - cosine.square()).sqrt() * cotangent - cosine)
            return torch.where(counts & (cosine < target), push, 0.0)

        return self._meet_all(gramian, noise, vaccinate)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"beta={self.beta:g}, {super().extra_repr()}"
