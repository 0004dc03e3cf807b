"""Curves of logged metrics, over runs and over the course of training."""

import numpy as np

from mtrl_fairgrad.analysis.metric_curves import mean_curve, negative_progress
from mtrl_fairgrad.runs.metrics_log import RunMetrics, Series, read_metrics
from tests.support.fabricated_runs import log


def points(series):
    return dict(zip(series.env_steps.tolist(), series.values.tolist(), strict=True))


def test_progress_is_negative_beyond_rounding_only(tmp_path):
    # The largest squared gradient norm is 4, so the limit is −4e-4.
    norms = {
        f"actor/task_gradient_norm/{task}": {1: norm, 3: norm}
        for task, norm in (("a", 2.0), ("b", 0.1))
    }
    progress = {1: -1e-3, 2: -1e-4, 3: 0.2, 4: float("nan")}
    log(tmp_path, {**norms, "actor/min_progress": progress})
    found = negative_progress(read_metrics(tmp_path), "actor")
    np.testing.assert_array_equal(found.values, [1, 0, 0, np.nan])


def test_a_course_weighs_runs_by_their_seeds():
    two = Series(np.array([0.0, 10.0]), np.array([1.0, 4.0])), 2
    one = Series(np.array([0.0, 20.0]), np.array([4.0, np.nan])), 1
    found = mean_curve([two, one])
    assert points(found) == {0: 2.0, 10: 4.0}  # (2·1 + 1·4) / 3; NaN counts for nothing
    assert len(mean_curve([]).env_steps) == 0


def test_a_long_course_is_averaged_over_equal_stretches():
    steps = np.arange(101.0)
    found = mean_curve([(Series(steps, steps), 1.0)], points=4)
    np.testing.assert_allclose(found.env_steps, [12.5, 37.5, 62.5, 87.5])
    np.testing.assert_allclose(
        found.values, [12, 37, 62, 87.5]
    )  # the last stretch has both its ends
    gap = mean_curve(
        [(Series(np.array([0.0, 1, 2, 100]), np.array([1.0, 1, 1, 7])), 1.0)], points=3
    )
    assert len(gap.env_steps) == 2 and gap.values.tolist() == [1, 7]


def test_progress_that_was_not_logged_is_unknown():
    assert negative_progress(RunMetrics({}, 0.0), "critic") is None
