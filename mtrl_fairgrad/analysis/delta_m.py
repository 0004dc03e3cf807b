"""The paper's two summaries of several metrics, Δm% and MR, as functions of arrays.

`values` is `[M, K]`: M methods, K metrics, in any units; `higher_is_better` is `[K]`. All functions
raise `ValueError` for other shapes and values than stated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mtrl_fairgrad.analysis.statistics import Array


def delta_m(values: ArrayLike, baseline: ArrayLike, higher_is_better: ArrayLike) -> Array:
    """Compute the paper's Δm% (§5.1): mean drop in % from single-task networks; lower is better.

    Δm% = 1/K Σ_k (−1)^δ_k (M_mk − M_bk) / M_bk × 100, with δ_k = 1 where higher is better and else
    0.

    Args:
        values: `[M, K]`, finite.
        baseline: `[K]`, the single-task networks' values; positive, since a drop relative to zero
            is undefined and one relative to a negative value has the wrong sign.
        higher_is_better: `[K]` of booleans.

    Returns:
        `[M]`, negative where a method beats the baseline on average.
    """
    array, sign = _compared(values, higher_is_better)
    base = np.asarray(baseline, dtype=np.float64)
    if base.shape != sign.shape:
        raise ValueError(
            f"baseline has shape {base.shape}: give {list(sign.shape)}, one value for each metric."
        )
    wrong = ~(np.isfinite(base) & (base > 0))
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ValueError(f"baseline[{k}] is {base[k]}: a drop in % needs a positive baseline.")
    return np.mean(sign * (array - base) / base, axis=1) * 100


def mean_rank(values: ArrayLike, higher_is_better: ArrayLike) -> Array:
    """Compute the paper's MR (§5.1): mean over metrics of a method's rank; lower is better.

    Ranks are dense, as in the paper's tables: 1 is best, equal values share a rank and the next
    value has the next rank (1, 2, 2, 3). The paper ranks multi-task methods only, without the
    single-task baseline.

    Args:
        values: `[M, K]`, finite.
        higher_is_better: `[K]` of booleans.

    Returns:
        `[M]`, from 1 to M.
    """
    array, sign = _compared(values, higher_is_better)
    ranks = [np.unique(column, return_inverse=True)[1] + 1 for column in (sign * array).T]
    return np.mean(ranks, axis=0)


def _compared(values: ArrayLike, higher_is_better: ArrayLike) -> tuple[Array, Array]:
    """Validate `values`; also return (−1)^δ `[K]`, the sign that makes lower values better."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"values has shape {array.shape}: give [methods, metrics], neither of them empty."
        )
    higher = np.asarray(higher_is_better)
    if higher.shape != array.shape[1:] or higher.dtype != np.bool_:
        given = f"{higher.dtype} of shape {higher.shape}"
        raise ValueError(
            f"higher_is_better is {given}: "
            f"give True or False for each of the {array.shape[1]} metrics."
        )
    wrong = ~np.isfinite(array)
    if wrong.any():
        m, k = np.argwhere(wrong)[0].tolist()
        raise ValueError(f"values[{m}, {k}] is {array[m, k]}: give finite numbers.")
    return array, np.where(higher, -1.0, 1.0)
