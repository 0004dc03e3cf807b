"""Event files of version 0.1 read back: resumed, cut off, damaged, or none."""

import numpy as np
import pytest

from mtrl_fairgrad.runs.metric_entries import SPEED
from mtrl_fairgrad.runs.metrics_log import read_entries, read_metrics
from tests.support.fabricated_runs import log_events


def points(series):
    return dict(zip(series.env_steps.tolist(), series.values.tolist(), strict=True))


def test_entries_are_read_with_single_precision(tmp_path):
    log_events(tmp_path, {"critic/residual": {0: 0.25, 5: 0.1}, "critic/loss/a": {0: 1.0}})
    metrics = read_metrics(tmp_path)
    assert points(metrics.series["critic/residual"]) == {0: 0.25, 5: float(np.float32(0.1))}
    assert metrics.series.keys() == {"critic/residual"}


def test_a_resumed_run_replaces_what_its_predecessor_wrote_beyond(tmp_path):
    log_events(tmp_path, {SPEED: {10: 1.0, 20: 2.0, 30: 3.0}}, every=100)
    log_events(tmp_path, {SPEED: {20: 5.0, 40: 6.0}}, every=50, purge=20)
    metrics = read_metrics(tmp_path)
    assert points(metrics.series[SPEED]) == {10: 1, 20: 5, 40: 6}
    assert metrics.wall_seconds == pytest.approx(200 + 50, abs=10)


def test_what_came_after_a_step_can_be_left_out(tmp_path):
    log_events(tmp_path, {SPEED: {10: 1.0, 20: 2.0, 30: 3.0}}, every=100)
    log_events(tmp_path, {SPEED: {20: 5.0, 40: 6.0}}, every=50, purge=20)
    metrics = read_metrics(tmp_path, until=25)
    assert points(metrics.series[SPEED]) == {10: 1, 20: 5}
    assert metrics.wall_seconds == pytest.approx(100, abs=10)
    assert points(read_metrics(tmp_path, until=15).series[SPEED]) == {10: 1}
    assert read_metrics(tmp_path, until=5).series == {}


def test_a_record_that_was_cut_off_and_garbage_are_left_out(tmp_path):
    log_events(tmp_path, {SPEED: {10: 1.0, 20: 2.0}})
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert points(read_metrics(tmp_path).series[SPEED]) == {10: 1}
    file.write_bytes(whole + b"\xff" * 40)
    assert points(read_metrics(tmp_path).series[SPEED]) == {10: 1, 20: 2}
    file.write_bytes(whole + (8).to_bytes(8, "little") + b"\x00" * 4 + b"\xff" * 12)
    assert points(read_metrics(tmp_path).series[SPEED]) == {10: 1, 20: 2}


def test_events_at_no_time_or_step_are_left_out(tmp_path):
    log_events(tmp_path, {SPEED: {10: 1.0, 20: 2.0}}, every=float("inf"))  # NaN, then infinite
    log_events(tmp_path, {SPEED: {-3: 1.0, 30: 2.0}}, every=10)
    metrics = read_metrics(tmp_path)
    assert points(metrics.series[SPEED]) == {30: 2} and metrics.wall_seconds < 1000


def test_a_folder_without_event_files_has_no_metrics(tmp_path):
    metrics = read_metrics(tmp_path)
    assert metrics.series == {} and np.isnan(metrics.wall_seconds)
    assert list(read_entries(tmp_path)) == [] and metrics.by_task("critic/weights") == {}
