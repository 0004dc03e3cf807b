"""The paper's two numbers for methods compared in several metrics, Δm% and MR, each a plain
function of arrays.

`values` is always `[M, K]`: M methods, K metrics, in any units; `higher_is_better` says so for each
metric, `[K]`. Every function raises `ValueError` when the shape or a value is not as stated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mtrl_fairgrad.analysis.statistics import Array


def delta_m(values: ArrayLike, baseline: ArrayLike, higher_is_better: ArrayLike) -> Array:
    """The paper's Δm% (§5.1): how much worse than single-task networks, in % on average over
    metrics; less is better.

    Δm% = 1/K Σ_k (−1)^δ_k (M_mk − M_bk) / M_bk × 100, with δ_k = 1 where higher is better and else
    0.

    Args:
        values: `[M, K]`, finite.
        baseline: `[K]`, the single-task networks' values: positive, for a drop relative to zero
            means nothing and one relative to a negative number would count a loss as a gain.
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
        raise ValueError(
            f"baseline[{k}] is {base[k]}: a drop in % needs a positive number to refer to."
        )
    return np.mean(sign * (array - base) / base, axis=1) * 100


def mean_rank(values: ArrayLike, higher_is_better: ArrayLike) -> Array:
    """The paper's MR (§5.1): a method's rank among the methods in each metric, averaged over
    metrics; less is better.

    Ranks are dense, as in the paper's tables: 1 is best, equal values share a rank and the next
    value has the next rank (1, 2, 2, 3). The paper ranks the multi-task methods only: leave the
    single-task baseline out.

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
    """`values` as an array, and (−1)^δ, `[K]`: the sign under which less is better in every metric."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"values has shape {array.shape}: give [methods, metrics], neither of them empty."
        )
    higher = np.asarray(higher_is_better)
    if higher.shape != array.shape[1:] or higher.dtype != np.bool_:
        given = f"{higher.dtype} of shape {higher.shape}"
        raise ValueError(
            f"higher_is_better is {given}: give True or False for each of the {array.shape[1]} "
            "metrics."
        )
    wrong = ~np.isfinite(array)
    if wrong.any():
        m, k = np.argwhere(wrong)[0].tolist()
        raise ValueError(
            f"values[{m}, {k}] is {array[m, k]}: methods are compared by finite numbers."
        )
    return array, np.where(higher, -1.0, 1.0)
