"""MGDA, the multiple-gradient descent algorithm.

Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", 2012; for
deep networks Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", 2018, arXiv
1810.04650.

The direction is the shortest convex combination of the task gradients,

    min_w ‖Σ_i w_i g_i‖²,   w ≥ 0,  Σ_i w_i = 1,

which is also the direction along which the slowest task improves most, for its length:
`g_iᵀd ≥ ‖d‖²` for all tasks. It is 0 exactly at Pareto stationary points. Tasks with small
gradients dominate it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import (
    SMALLEST_DIVISOR,
    GramianWeighting,
    Weights,
    nonnegative_or_nan,
)
from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.options import Choice
from mtrl_fairgrad.weighting.solvers.arrays import ignore_fp_warnings, to_array
from mtrl_fairgrad.weighting.solvers.nonnegative import minimise
from mtrl_fairgrad.weighting.solvers.problem import finalize, prepare_cosines


class MGDA(GramianWeighting):
    """The min-norm point, exactly. Stateless; costs one Jacobian and a K×K quadratic programme.

    Args:
        normalize: what each gradient is divided by to find the weights, as in Sener and Koltun's
            code: nothing (`"none"`), its norm (`"l2"`), its loss (`"loss"`), or both (`"loss+"`).
            The weights then apply to the original gradients. Losses below 10⁻⁸ count as 10⁻⁸,
            where that code fails.

    Raises:
        ValueError: the normalisation is not allowed.
    """

    name = "mgda"

    normalize = Choice("none", "l2", "loss", "loss+")

    def __init__(self, normalize: str = "none") -> None:
        super().__init__()
        self.normalize = normalize

    @property
    def needs_positive_losses(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether gradients are divided by their losses."""
        return self.normalize in ("loss", "loss+")

    @torch.no_grad()
    def forward(self, gramian: Tensor, losses: Tensor | None = None) -> Weights:
        """Compute weights.

        Args:
            gramian: `[..., K, K]`.
            losses: `[..., K]`, not negative; needed for `normalize="loss"` and `"loss+"` only.

        Returns:
            Weights `[..., K]` on the simplex, with the diagnostic `min_progress` `[...]`, the
            smallest `g_iᵀd`. If some tasks have no gradient, they share the weight, since the
            shortest combination is then 0. NaN for an element of the leading axes that is not
            finite.

        Raises:
            ValueError: a Gramian that is not `[..., K, K]`, or no losses where they are needed.
        """
        if losses is None and self.needs_positive_losses:
            raise ValueError(
                f"mgda with normalize={self.normalize} needs the losses: pass losses=."
            )
        return _solve(gramian, losses if self.needs_positive_losses else None, self.normalize)

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        return f"normalize={self.normalize}"


@on_host
@ignore_fp_warnings
def _solve(gramian: Tensor, losses: Tensor | None, normalize: str) -> Weights:
    problem, scaled = prepare_cosines(gramian)
    log_norms = scaled.log_norms
    log_divisors = log_norms if normalize in ("l2", "loss+") else np.zeros(log_norms.shape)
    if losses is not None:
        known = nonnegative_or_nan(losses).clamp(min=SMALLEST_DIVISOR)
        log_divisors = log_divisors + np.log(to_array(known))
    lengths = np.where(problem.active, log_norms - log_divisors, 0.0)
    valid = problem.valid & np.all(np.isfinite(lengths), -1)
    lengths = np.where(valid[..., None], lengths, 0.0)
    # Up to the sum of the weights, the shortest combination solves Cu = 1/n for the free tasks.
    inverse = np.exp(np.amin(lengths, -1)[..., None] - lengths)
    u, _ = minimise(scaled.cosines, np.where(problem.active, inverse, -1.0))
    shares = u * inverse
    stationary = ~problem.active
    shares = np.where(np.any(stationary, -1)[..., None], stationary, shares)
    weights, smallest = finalize(
        problem._replace(valid=valid), shares / np.sum(shares, -1)[..., None], gramian.dtype
    )
    return Weights(weights, {"min_progress": smallest})
