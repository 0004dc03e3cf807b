"""UPGrad, unconflicting projection of gradients.

Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv 2406.16232.

Each task's gradient is projected onto the cone of directions that harm no task, and the projections
are averaged:

    d = 1/K Σ_i π(g_i),    π(g) = argmin ‖x − g‖²  with  g_jᵀx ≥ 0 for all j.

In weights, `π(g_i) = Σ_j v_j g_j` with `v = argmin vᵀMv, v ≥ e_i`. d conflicts with no task, and is
the mean gradient where no two tasks conflict.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import GramianWeighting, Weights
from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.solvers.arrays import ignore_fp_warnings
from mtrl_fairgrad.weighting.solvers.nonnegative import minimise
from mtrl_fairgrad.weighting.solvers.problem import finalize, prepare_cosines


class UPGrad(GramianWeighting):
    """The exact mean of the projected gradients.

    Stateless; costs one Jacobian and K quadratic programmes of size K.
    """

    name = "upgrad"

    @torch.no_grad()
    def forward(self, gramian: Tensor) -> Weights:
        """Compute weights.

        Args:
            gramian: `[..., K, K]`.

        Returns:
            Weights `[..., K]`, at least 1/K, with the diagnostic `min_progress` `[...]`, the
            smallest `g_iᵀd`. NaN for an element of the leading axes that is not finite.

        Raises:
            ValueError: a Gramian that is not `[..., K, K]`.
        """
        return _solve(gramian)


@on_host
@ignore_fp_warnings
def _solve(gramian: Tensor) -> Weights:
    problem, scaled = prepare_cosines(gramian)
    tasks = gramian.shape[-1]
    # Row i is x of v = e_i + x in units of ‖g_i‖ and times ‖g_j‖, so that the programmes do not
    # depend on norms.
    both = problem.active[..., :, None] & problem.active[..., None, :]
    linear = np.where(both & ~np.eye(tasks, dtype=bool), -scaled.cosines, -1.0)
    u, _ = minimise(scaled.cosines[..., None, :, :], linear)
    added = u * np.exp(scaled.log_norms[..., :, None] - scaled.log_norms[..., None, :])
    weights, smallest = finalize(problem, (1 + np.sum(added, -2)) / tasks, gramian.dtype)
    return Weights(weights, {"min_progress": smallest})
