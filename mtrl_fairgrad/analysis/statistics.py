"""Statistics of success rates, as functions of arrays.

`success` is `[T, S, K]`: T ≥ 1 evaluations, S ≥ 1 seeds, K ≥ 1 tasks; rates in [0, 1]. `scores` is
`[S, K]`: numbers of one evaluation in any unit, higher is better. All functions raise `ValueError`
for other shapes and values than stated.

Seeds are the independent samples: standard errors are over the S means over tasks, never over S·K
values. The interquartile mean and the bootstrap follow rliable instead (Agarwal et al., 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

BOOTSTRAP_SAMPLES = 2000
"""Resamples of an interval; its ends vary by about 1 % of its width between bootstrap seeds."""
LEVEL = 0.95
"""Confidence level of bootstrap intervals."""
ARRANGEMENTS = 20_000
"""Largest number of arrangements of ranks in a `rank_test`: all of them if there are fewer (12,870
with eight seeds a side), else a random sample."""


class Estimate(NamedTuple):
    """A mean over seeds and its standard error."""

    mean: Array
    stderr: Array
    """Standard error of `mean`, NaN where there is only one seed; same shape."""


class Score(NamedTuple):
    """One number for a method, and the evaluation it is from."""

    evaluation: int
    """Index into T."""
    mean: float
    stderr: float
    """NaN for one seed."""


class RankTest(NamedTuple):
    """Result of a rank test of the seeds of two methods."""

    probability: float
    """Probability that a seed of the first has the higher number; ties count half."""
    p: float
    """Two-sided p-value; NaN if either method has a single seed."""


class Interval(NamedTuple):
    """A statistic and its bootstrap interval."""

    value: float
    low: float
    """NaN, like `high`, for a single seed."""
    high: float


def over_seeds(values: ArrayLike, axis: int) -> Estimate:
    """Compute mean and standard error `s / √S` over seeds, `s` with denominator S − 1.

    Args:
        values: `[..., S, ...]`, any shape with at least one seed.
        axis: axis of the seeds; removed in the result.

    Returns:
        both are NaN where a value is NaN; the standard error is NaN if S = 1.
    """
    array = np.asarray(values, dtype=np.float64)
    seeds = array.shape[axis]
    if seeds == 0:
        raise ValueError(
            f"values of shape {array.shape} have no seed on axis {axis}: give at least one."
        )
    mean = np.mean(array, axis=axis)
    if seeds == 1:
        return Estimate(mean, np.full_like(mean, np.nan))
    return Estimate(mean, np.std(array, axis=axis, ddof=1) / np.sqrt(seeds))


def learning_curve(success: ArrayLike) -> Estimate:
    """Average over tasks, then over seeds with standard error: `[T, S, K]` → `[T]`."""
    return over_seeds(_checked(success).mean(axis=2), axis=1)


def task_curves(success: ArrayLike) -> Estimate:
    """Average each task over seeds with standard error: `[T, S, K]` → `[T, K]`."""
    return over_seeds(_checked(success), axis=1)


def final(success: ArrayLike) -> Score:
    """Average the last evaluation over tasks and seeds: `[T, S, K]` → one number."""
    curve = learning_curve(success)
    return _score(curve, len(curve.mean) - 1)


def best_over_course(success: ArrayLike) -> Score:
    """Return the highest mean over tasks and seeds of all evaluations: `[T, S, K]` → one number.

    This is the number in the paper's Table 4. A maximum over noisy evaluations is biased upwards,
    more so with more evaluations: compare it with `final`. The standard error is that of the
    evaluation, the earliest among equals.
    """
    curve = learning_curve(success)
    return _score(curve, int(np.argmax(curve.mean)))


def mean_over_course(success: ArrayLike, env_steps: ArrayLike) -> Array:
    """Compute the area below each seed's learning curve over its length: `[T, S, K]` → `[S]`.

    By the trapezoidal rule between evaluations; a single evaluation gives its mean over tasks.
    Unlike `best_over_course` it does not favour noise, and unlike `final` it distinguishes methods
    that reach the same success. Compare it at equal env_steps only.

    Args:
        success: `[T, S, K]`.
        env_steps: `[T]` of the evaluations, increasing.
    """
    rates, at = _checked(success).mean(axis=2), np.asarray(env_steps, dtype=np.float64)
    if at.shape != rates.shape[:1] or not (np.diff(at) > 0).all():
        raise ValueError(f"env_steps is {at.tolist()}: give {len(rates)} increasing numbers.")
    if len(at) == 1:
        return rates[0]
    return np.diff(at) @ (rates[:-1] + rates[1:]) / (2 * (at[-1] - at[0]))


# ---- intervals over seeds and tasks ----


def interquartile_mean(scores: ArrayLike) -> Array:
    """Average the middle half of all S·K numbers: `[..., S, K]` → `[...]`.

    rliable's IQM, `scipy.stats.trim_mean(scores, 0.25, axis=None)`: the S·K numbers of all seeds
    and tasks are sorted together and ⌊S·K/4⌋ of them dropped at each end. It drops tasks that
    always or never succeed first, so it does not estimate the mean over tasks.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(
            f"scores has shape {array.shape}: give [seeds, tasks], neither of them empty."
        )
    together = np.sort(array.reshape(*array.shape[:-2], -1), axis=-1)
    cut = together.shape[-1] // 4
    return np.mean(together[..., cut : together.shape[-1] - cut], axis=-1)


def mean_score(scores: ArrayLike) -> Array:
    """Average over tasks and seeds: `[..., S, K]` → `[...]`."""
    return np.mean(np.asarray(scores, dtype=np.float64), axis=(-2, -1))


def stratified_bootstrap(
    statistic: Callable[[Array], Array],
    scores: ArrayLike,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> Interval:
    """Compute a statistic and its 95 % percentile interval over resampled seeds.

    Strata are the tasks: each draws its S seeds with replacement independently, as in rliable.
    The intervals are too narrow with few seeds, and if a seed's tasks, which share a network,
    succeed and fail together. For the mean of ten tasks with normal noise they covered the
    truth in 88 % (S = 3) and 93 % (S = 10) of trials when tasks were independent, in 44 % and 56 %
    when half the variance was a seed's own; `Estimate.stderr` does not assume independence. The
    same `seed` gives the same interval.

    Args:
        statistic: maps `[..., S, K]` to `[...]`, such as `interquartile_mean`.
        scores: `[S, K]`, finite.
        samples: number of resamples, at least 1.
        seed: seed of the resampling.
    """
    array = _scores(scores, "scores")
    value = float(statistic(array))
    if len(array) == 1:
        return Interval(value, np.nan, np.nan)
    drawn = _generator(samples, seed).integers(len(array), size=(samples, *array.shape))
    return _interval(value, statistic(np.take_along_axis(array[None], drawn, axis=1)))


def probability_of_improvement(
    x: ArrayLike, y: ArrayLike, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> Interval:
    """Compute the probability of improvement, P(X > Y) + ½ P(X = Y) over seeds, mean over tasks.

    As in rliable, with its stratified bootstrap: each task of each method draws its seeds with
    replacement. Values above ½ mean that X is better more often than not, by any amount.

    Args:
        x: scores `[S, K]` of one method, finite.
        y: scores `[M, K]` of the other, of the same K tasks; its M seeds need not be those of X.
        samples: number of resamples, at least 1.
        seed: seed of the resampling.

    Returns:
        the probability; the interval is NaN if either method has a single seed.
    """
    ours, theirs = _scores(x, "x"), _scores(y, "y")
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(
            f"x has {ours.shape[1]} tasks and y has {theirs.shape[1]}: "
            "give scores of the same tasks."
        )
    above = ours[:, None] > theirs[None]
    wins = above + 0.5 * (ours[:, None] == theirs[None])  # [S, M, K]
    value = float(wins.mean())
    if 1 in wins.shape[:2]:
        return Interval(value, np.nan, np.nan)
    generator, (seeds, rivals, tasks) = _generator(samples, seed), wins.shape
    # How often each seed was drawn: [samples, K, S] and [samples, K, M].
    drawn, against = (
        generator.multinomial(n, np.full(n, 1 / n), size=(samples, tasks)) for n in (seeds, rivals)
    )
    scores = np.einsum("nks,smk,nkm->n", drawn, wins, against, optimize=True) / wins.size
    return _interval(value, scores)


def rank_test(x: ArrayLike, y: ArrayLike, seed: int = 0) -> RankTest:
    """Run Mann & Whitney's (1947) test of equal distributions of the seeds of X and of Y.

    It uses the order of one number per seed, so that tasks which share a network do not count as
    independent. With up to eight seeds a side it is exact, over all assignments of the ranks to the
    two methods (Fisher's permutation test); with more, over `ARRANGEMENTS` random ones. The
    smallest possible p is 0.1 with three seeds a side, 0.008 with five, 0.00001 with ten. It is not
    corrected for multiple comparisons.

    Args:
        x: `[S]`, finite, such as a seed's mean over tasks; numbers closer than 1e-9 are equal.
        y: `[M]`, the same of the other method.
        seed: seed of the random assignments.
    """
    ours, theirs = (
        _scores(np.reshape(numbers, (-1, 1)), name)[:, 0].round(9)
        for numbers, name in ((x, "x"), (y, "y"))
    )
    probability = float(((ours[:, None] > theirs) + 0.5 * (ours[:, None] == theirs)).mean())
    if 1 in (len(ours), len(theirs)):
        return RankTest(probability, np.nan)
    from scipy import stats  # takes half a second; only reports need it  # pyright: ignore[reportMissingTypeStubs]

    known: Any = stats  # its functions lack annotations
    ranks = known.rankdata(np.concatenate([ours, theirs]))
    result = known.permutation_test(
        (ranks[: len(ours)], ranks[len(ours) :]),
        _sum_of_first,
        vectorized=True,
        n_resamples=ARRANGEMENTS,
        random_state=seed,
    )
    return RankTest(probability, float(result.pvalue))


def _sum_of_first(first: Array, second: Array, axis: int) -> Array:
    return first.sum(axis=axis)


def _scores(scores: ArrayLike, name: str) -> Array:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{name} has shape {array.shape}: give [seeds, tasks], neither of them empty."
        )
    wrong = ~np.isfinite(array)
    if wrong.any():
        s, k = np.argwhere(wrong)[0].tolist()
        raise ValueError(f"{name}[{s}, {k}] is {array[s, k]}: give finite numbers.")
    return array


def _generator(samples: int, seed: int) -> np.random.Generator:
    if samples < 1:
        raise ValueError(
            f"samples={samples} is not allowed: give the number of resamples, at least 1."
        )
    return np.random.default_rng(seed)


def _interval(value: float, resampled: Array) -> Interval:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(value, low, high)


def _score(curve: Estimate, evaluation: int) -> Score:
    return Score(evaluation, float(curve.mean[evaluation]), float(curve.stderr[evaluation]))


def _checked(success: ArrayLike) -> Array:
    array = np.asarray(success, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(
            f"success has shape {array.shape}: give [evaluations, seeds, tasks], "
            "none of them empty."
        )
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        t, s, k = np.argwhere(wrong)[0].tolist()
        raise ValueError(f"success[{t}, {s}, {k}] is {array[t, s, k]}: give rates between 0 and 1.")
    return array
