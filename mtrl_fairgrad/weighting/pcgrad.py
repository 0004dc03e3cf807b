"""PCGrad, projection of conflicting gradients.

Yu, Kumar, Gupta, Levine, Hausman and Finn, "Gradient Surgery for Multi-Task Learning", 2020, arXiv
2001.06782.

Each task's gradient visits the others in random order and loses the component that conflicts with
them (Algorithm 1):

    g_i' ← g_i' − min(g_i'ᵀg_j, 0) / ‖g_j‖² · g_j   for all j ≠ i,      d = Σ_i g_i'

With `g_i' = Σ_k C_ik g_k` only the coefficients C change, and the weights are C's column sums. For
two tasks d conflicts with neither; for more, a later projection may undo an earlier one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import Weights
from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.random_order import PairStep, RandomOrderWeighting, visit_pairs


class PCGrad(RandomOrderWeighting):
    """Project conflicts out of each gradient.

    Random, without state; costs one Jacobian and K steps on K×K matrices.

    Args:
        reduction: the direction is the `"sum"` of the projected gradients, as in the paper's
            algorithm, or their `"mean"`.

    Raises:
        ValueError: the reduction is not allowed.
    """

    name = "pcgrad"

    @torch.no_grad()
    def forward(self, gramian: Tensor, noise: Tensor | None = None) -> Weights:
        """Compute weights.

        Args:
            gramian: `[..., K, K]`.
            noise: the orders `[..., K, K]` that `draw` returned.

        Returns:
            Weights `[..., K]`, 0 for tasks without gradient, with the diagnostics

            * `min_progress` `[...]`, the smallest `g_iᵀd`;
            * `changed` `[...]`, the share of the K(K−1) pairs with a conflict.

            NaN for an element of the leading axes with a non-finite entry.

        Raises:
            ValueError: a Gramian that is not `[..., K, K]`, or no noise of the right shape.
        """
        return _visit(gramian, self._order(gramian, noise), self.reduction)


@on_host
def _visit(gramian: Tensor, order: Tensor, reduction: str) -> Weights:
    return visit_pairs(gramian, order, reduction, _project)


def _project(step: PairStep) -> Tensor:
    return -step.product.clamp(max=0)
