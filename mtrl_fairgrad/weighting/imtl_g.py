"""IMTL-G, impartial multi-task learning.

Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, "Towards Impartial Multi-task Learning", 2021
(ICLR).

The direction has equal projections on all task gradients,

    dᵀg_i / ‖g_i‖ = dᵀg_j / ‖g_j‖ for all i, j,    d = Σ_i w_i g_i,  Σ_i w_i = 1,

so that `M w ∝ (‖g_1‖, …, ‖g_K‖)`, a linear system. Weights may be negative, and are large where the
sum of the system's solution is nearly 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import GramianWeighting, Weights
from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.solvers.arrays import ignore_fp_warnings, solve
from mtrl_fairgrad.weighting.solvers.problem import finalize, prepare_cosines


class IMTLG(GramianWeighting):
    """Equal projections on all gradients. Stateless; costs one Jacobian and a K×K linear system."""

    name = "imtl_g"

    @torch.no_grad()
    def forward(self, gramian: Tensor) -> Weights:
        """Compute weights.

        Args:
            gramian: `[..., K, K]`; a ridge of 1e-8 (1e-7 in float32) on its cosines makes singular
                ones regular.

        Returns:
            Weights `[..., K]` with sum 1, 0 for tasks without gradient, with the diagnostic
            `min_progress` `[...]`, the smallest `g_iᵀd`. If no task has a gradient, all are 0. NaN
            for an element of the leading axes that is not finite.

        Raises:
            ValueError: a Gramian that is not `[..., K, K]`.
        """
        return _solve(gramian)


@on_host
@ignore_fp_warnings
def _solve(gramian: Tensor) -> Weights:
    problem, scaled = prepare_cosines(gramian)
    inverse = np.exp(np.amin(scaled.log_norms, -1)[..., None] - scaled.log_norms)
    solution = solve(scaled.cosines, np.where(problem.active, 1.0, 0.0)) * inverse
    total = np.sum(solution, -1)[..., None]
    weights, smallest = finalize(
        problem, solution / np.where(total == 0, 1.0, total), gramian.dtype
    )
    return Weights(weights, {"min_progress": smallest})
