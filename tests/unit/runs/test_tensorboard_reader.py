"""Event files read back: as tracking wrote them, resumed, cut off, damaged, or none."""

import numpy as np
import pytest
import torch

from mtrl_fairgrad.runs.tensorboard_reader import SPEED, Series, course, read_telemetry
from mtrl_fairgrad.training.logger import Logger
from tests.support.fabricated_runs import log


def points(series):
    return dict(zip(series.env_steps.tolist(), series.values.tolist(), strict=True))


def test_what_tracking_writes_is_read_back(tmp_path):
    logger = Logger(tmp_path, ["a", "b"], 10, 0, resumed=False, progress=False, alternative=None)
    for step in (0, 5):
        entries = {
            "critic/gramian": torch.tensor([[[4.0, -1.0], [-1.0, 1.0]]]),
            "critic/weights": torch.tensor([[1.0, 3.0 + step]]),
            "critic/min_progress": torch.tensor([0.5]),
            "critic/residual": torch.tensor([0.25]),
            "critic/loss": torch.tensor([[1.0, 2.0]]),
        }
        logger.log_update(entries, step, 20.0)
    logger.close()
    found = read_telemetry(tmp_path)
    assert points(found.series[SPEED]) == {0: 20, 5: 20}
    assert points(found.series["critic/cosine/mean"]) == {0: -0.5, 5: -0.5}
    assert points(found.series["critic/cosine/share_negative"]) == {0: 1, 5: 1}
    assert points(found.series["critic/residual"]) == {0: 0.25, 5: 0.25}
    assert {task: points(one) for task, one in found.by_task("critic/weights").items()} == {
        "a": {0: 1, 5: 1},
        "b": {0: 3, 5: 8},
    }
    assert "critic/loss/a" not in found.series
    assert 0 <= found.wall_seconds < 60


def test_a_resumed_run_replaces_what_its_predecessor_wrote_beyond(tmp_path):
    log(tmp_path, {SPEED: {10: 1.0, 20: 2.0, 30: 3.0}}, every=100)
    log(tmp_path, {SPEED: {20: 5.0, 40: 6.0}}, every=50, purge=20)
    found = read_telemetry(tmp_path)
    assert points(found.series[SPEED]) == {10: 1, 20: 5, 40: 6}
    assert found.wall_seconds == pytest.approx(200 + 50, abs=10)


def test_what_came_after_a_step_can_be_left_out(tmp_path):
    log(tmp_path, {SPEED: {10: 1.0, 20: 2.0, 30: 3.0}}, every=100)
    log(tmp_path, {SPEED: {20: 5.0, 40: 6.0}}, every=50, purge=20)
    found = read_telemetry(tmp_path, until=25)
    assert points(found.series[SPEED]) == {10: 1, 20: 5}
    assert found.wall_seconds == pytest.approx(100, abs=10)
    assert points(read_telemetry(tmp_path, until=15).series[SPEED]) == {10: 1}
    assert read_telemetry(tmp_path, until=5).series == {}


def test_a_record_that_was_cut_off_and_garbage_are_left_out(tmp_path):
    log(tmp_path, {SPEED: {10: 1.0, 20: 2.0}})
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert points(read_telemetry(tmp_path).series[SPEED]) == {10: 1}
    file.write_bytes(whole + b"\xff" * 40)
    assert points(read_telemetry(tmp_path).series[SPEED]) == {10: 1, 20: 2}
    file.write_bytes(whole + (8).to_bytes(8, "little") + b"\x00" * 4 + b"\xff" * 12)
    assert points(read_telemetry(tmp_path).series[SPEED]) == {10: 1, 20: 2}


def test_a_folder_without_event_files_tells_nothing(tmp_path):
    found = read_telemetry(tmp_path)
    assert found.series == {} and np.isnan(found.wall_seconds)
    assert found.negative_progress("critic") is None and found.by_task("critic/weights") == {}


def test_progress_is_negative_beyond_rounding_only(tmp_path):
    # The largest squared gradient norm is 4, so the limit is −4e-4.
    norms = {
        f"actor/task_gradient_norm/{task}": {1: norm, 3: norm}
        for task, norm in (("a", 2.0), ("b", 0.1))
    }
    progress = {1: -1e-3, 2: -1e-4, 3: 0.2, 4: float("nan")}
    log(tmp_path, {**norms, "actor/min_progress": progress})
    found = read_telemetry(tmp_path).negative_progress("actor")
    np.testing.assert_array_equal(found.values, [1, 0, 0, np.nan])


def test_a_course_weighs_runs_by_their_seeds():
    two = Series(np.array([0.0, 10.0]), np.array([1.0, 4.0])), 2
    one = Series(np.array([0.0, 20.0]), np.array([4.0, np.nan])), 1
    found = course([two, one])
    assert points(found) == {0: 2.0, 10: 4.0}  # (2·1 + 1·4) / 3; NaN counts for nothing
    assert len(course([]).env_steps) == 0


def test_a_long_course_is_averaged_over_equal_stretches():
    steps = np.arange(101.0)
    found = course([(Series(steps, steps), 1.0)], points=4)
    np.testing.assert_allclose(found.env_steps, [12.5, 37.5, 62.5, 87.5])
    np.testing.assert_allclose(
        found.values, [12, 37, 62, 87.5]
    )  # the last stretch has both its ends
    gap = course([(Series(np.array([0.0, 1, 2, 100]), np.array([1.0, 1, 1, 7])), 1.0)], points=3)
    assert len(gap.env_steps) == 2 and gap.values.tolist() == [1, 7]
