"""Curves of logged metrics: the mean over runs, and how often an update made a task worse."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mtrl_fairgrad.runs.metrics_log import Array, RunMetrics, Series

NEGATIVE_PROGRESS = -1e-4
"""Limit of `g_iᵀd`, relative to the largest squared gradient norm; values above count as zero.
With UPGrad, MGDA and others it is often exactly zero, where rounding decides the sign."""
NO_ENTRIES = Series(np.empty(0), np.empty(0))


def mean_curve(parts: Iterable[tuple[Series, float]], points: int = 60) -> Series:
    """Compute the weighted mean of several runs' series, binned by env_steps.

    Args:
        parts: one metric's series of each run, with its weight (the run's number of seeds).
        points: number of bins of equal width; not used if there are fewer distinct env_steps.

    Returns:
        At most `points` entries: the middle of each bin and the weighted mean of its finite
        entries; bins without one are left out.
    """
    given = [(series, weight) for series, weight in parts if len(series.env_steps)]
    if not given:
        return NO_ENTRIES
    steps = np.concatenate([series.env_steps for series, _ in given])
    values = np.concatenate([series.values for series, _ in given])
    weights = np.concatenate([np.full(len(series.env_steps), weight) for series, weight in given])
    finite = np.isfinite(values)
    steps, values, weights = steps[finite], values[finite], weights[finite]
    middles = np.unique(steps)
    if len(middles) > points:
        edges: Array = np.linspace(float(middles[0]), float(middles[-1]), points + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        index = np.clip(np.searchsorted(edges, steps, side="right") - 1, 0, points - 1)
    else:
        index = np.searchsorted(middles, steps)
    total = np.bincount(index, weights, len(middles))
    sums = np.bincount(index, weights * values, len(middles))
    return Series(middles[total > 0], sums[total > 0] / total[total > 0])


def negative_progress(metrics: RunMetrics, network: str) -> Series | None:
    """Return 1 where an update of `network` made some task worse to first order, else 0.

    Computed from the smallest `g_iᵀd`, of which the mean over the run's seeds is logged; None if it
    was not logged.
    """
    progress = metrics.series.get(f"{network}/min_progress")
    if progress is None:
        return None
    scale = np.zeros_like(progress.values)
    for norm in metrics.by_task(f"{network}/task_gradient_norm").values():
        scale = np.fmax(scale, np.interp(progress.env_steps, *norm) ** 2)
    negative = np.where(progress.values < NEGATIVE_PROGRESS * scale, 1.0, 0.0)
    return Series(progress.env_steps, np.where(np.isnan(progress.values), np.nan, negative))
