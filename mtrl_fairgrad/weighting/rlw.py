"""RLW, random loss weighting.

Lin, Ye, Zhang and Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus Test for
Multi-Task Learning", 2022, arXiv 2111.10603. Fresh weights for every call,

    w = softmax(n),   n ~ N(0, 1)^K,

positive and of sum 1: 1/K each on average, a baseline for methods that learn their weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import LossWeighting, Weights


class RLW(LossWeighting):
    """Random weights, independent of the losses.

    Needs `init` and `noise`; costs one ordinary backward pass.
    """

    name = "rlw"

    def draw(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw standard normal numbers `[..., K]`, float64, on the generators' device.

        Raises:
            ValueError: not initialised, or not one generator per leading element.
        """
        return self._stack_draws(generators, self._normal)

    def _normal(self, generator: torch.Generator) -> Tensor:
        tasks = self.tasks or 0  # _stack_draws has checked that it is not None
        return torch.randn(tasks, generator=generator, device=generator.device, dtype=torch.float64)

    def forward(self, losses: Tensor, noise: Tensor | None = None) -> Weights:
        """Compute weights.

        Args:
            losses: `[..., K]`, of which only shape and dtype matter.
            noise: what `draw` returned.

        Returns:
            Weights `[..., K]` in the losses' dtype (float32 for half precision).

        Raises:
            ValueError: no noise, or losses or noise whose shape differs from that given to `init`.
        """
        noise = self._require_noise(noise).to(losses.device)
        for shape in (losses.shape, noise.shape):
            self._check_shape(shape)
        return Weights(noise.softmax(-1).to(torch.promote_types(losses.dtype, torch.float32)), {})
