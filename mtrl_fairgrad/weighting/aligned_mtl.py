"""Aligned-MTL, alignment of the principal components of the gradients.

Senushkin, Patakin, Kuznetsov and Konushin, "Independent Component Alignment for Multi-Task
Learning", 2023, arXiv 2305.19000.

With `M = VΣVᵀ`, the gradients are replaced by the nearest ones that are orthogonal and of equal
length,

    Ĝ = √σ · G V Σ^(−1/2) Vᵀ,    d = 1/K Σ_i ĝ_i,

where σ, the smallest eigenvalue that is not zero, bounds the step by the weakest component. The
aligned gradients do not conflict with each other; d may still conflict with an original one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import GramianWeighting, Weights
from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.options import Choice
from mtrl_fairgrad.weighting.solvers.arrays import ignore_fp_warnings, matvec, to_array
from mtrl_fairgrad.weighting.solvers.problem import check_gramian, finalize, prepare

_numpy: Any = np  # its functions have too many type annotations


class AlignedMTL(GramianWeighting):
    """Aligned gradients. Stateless; costs one Jacobian and a K×K eigendecomposition.

    Args:
        scale: σ is the smallest non-zero eigenvalue (`"min"`, the paper's), their median, or their
            mean (`"rmse"`).

    Raises:
        ValueError: the scale is not allowed.
    """

    name = "aligned_mtl"

    scale = Choice("min", "median", "rmse")

    def __init__(self, scale: str = "min") -> None:
        super().__init__()
        self.scale = scale

    @torch.no_grad()
    def forward(self, gramian: Tensor) -> Weights:
        """Compute weights.

        Args:
            gramian: `[..., K, K]`; eigenvalues below rounding, K times the dtype's epsilon times
                the largest, count as zero.

        Returns:
            Weights `[..., K]` with the diagnostic `min_progress` `[...]`, the smallest `g_iᵀd`. If
            no task has a gradient, all are 0. NaN for an element of the leading axes that is not
            finite.

        Raises:
            ValueError: a Gramian that is not `[..., K, K]`.
        """
        return _solve(gramian, self.scale)

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        return f"scale={self.scale}"


@on_host
@ignore_fp_warnings
def _solve(gramian: Tensor, scale: str) -> Weights:
    check_gramian(gramian)
    problem = prepare(to_array(gramian))
    tasks = gramian.shape[-1]
    values, vectors = _numpy.linalg.eigh(problem.gramian)  # in ascending order
    rounding = torch.finfo(torch.promote_types(gramian.dtype, torch.float32)).eps
    nonzero = values > tasks * rounding * abs(values[..., -1:])
    count = np.sum(nonzero, -1)
    safe = np.where(nonzero, values, 1.0)
    if scale == "rmse":
        sigma = np.sum(np.where(nonzero, values, 0.0), -1) / np.where(count > 0, count, 1)
    else:
        # Rank from the top among the `count` non-zero eigenvalues: the last, or the lower median.
        rank = count if scale == "min" else (count + 2) // 2
        position = np.cumsum(nonzero[..., ::-1], -1)[..., ::-1]
        chosen = (position == rank[..., None]) & nonzero
        sigma = np.sum(np.where(chosen, values, 0.0), -1)
    equal = np.full(values.shape, 1 / tasks)
    mixed = np.where(nonzero, matvec(np.swapaxes(vectors, -1, -2), equal) / np.sqrt(safe), 0.0)
    weights, smallest = finalize(
        problem, np.sqrt(sigma)[..., None] * matvec(vectors, mixed), gramian.dtype
    )
    return Weights(weights, {"min_progress": smallest})
