"""The metrics log: as training wrote it, resumed, cut off, damaged, or none."""

import errno
import math
import os

import numpy as np
import pytest
import torch

from mtrl_fairgrad.runs.metric_entries import SPEED, Entry
from mtrl_fairgrad.runs.metrics_log import MetricsLog, encode, read_entries, read_metrics, thin
from mtrl_fairgrad.training.logger import Logger
from mtrl_fairgrad.utils import atomic_io
from tests.support.fabricated_runs import log_events
from tests.support.sample_run import Fault


def points(series):
    return dict(zip(series.env_steps.tolist(), series.values.tolist(), strict=True))


def values(folder):
    return [entry for entry in read_entries(folder) if entry.name != "wall_seconds"]


def test_what_training_logs_is_read_back(tmp_path):
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
    metrics = read_metrics(tmp_path)
    assert points(metrics.series[SPEED]) == {0: 20, 5: 20}
    assert points(metrics.series["critic/cosine/mean"]) == {0: -0.5, 5: -0.5}
    assert points(metrics.series["critic/cosine/share_negative"]) == {0: 1, 5: 1}
    assert points(metrics.series["critic/residual"]) == {0: 0.25, 5: 0.25}
    assert {task: points(one) for task, one in metrics.by_task("critic/weights").items()} == {
        "a": {0: 1, 5: 1},
        "b": {0: 3, 5: 8},
    }
    assert "critic/loss/a" not in metrics.series
    assert 0 <= metrics.wall_seconds < 60


def test_numbers_and_names_come_back_exactly(tmp_path):
    log = MetricsLog(tmp_path)
    numbers = [0.1 + 0.2, 1e-300, -0.0, math.inf, math.nan, np.float64(2) / 3]
    for step, number in enumerate(numbers):
        log.add('critic/weights/a,"b"', number, step)
    assert not (tmp_path / "metrics.csv").exists(), "nothing is written until it is time"
    log.close()
    np.testing.assert_array_equal([entry.value for entry in values(tmp_path)], numbers)
    assert {entry.name for entry in values(tmp_path)} == {'critic/weights/a,"b"'}


def test_entries_are_written_when_it_is_time(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_io, "FLUSH_SECONDS", 0)
    MetricsLog(tmp_path).add(SPEED, 1, 0)
    assert values(tmp_path) == [(0, SPEED, 1.0)]


def test_the_training_time_includes_unreported_entries_and_adds_up(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for start in (0, 10):
        log = MetricsLog(tmp_path)
        now += 2
        log.add(SPEED, 1, start)
        now += 3
        log.add("success/a", 1, start + 1)
        now += 50
        log.close()
    assert read_metrics(tmp_path).wall_seconds == 10
    assert read_metrics(tmp_path, until=10).wall_seconds == 7
    assert [entry.value for entry in values(tmp_path)] == [1, 1]


@pytest.mark.parametrize("torn", [b"7", b"7,speed/updates_per_second,1", b'7,"', b"\xff\0"])
def test_a_torn_line_is_left_out_and_overwritten(tmp_path, torn):
    log = MetricsLog(tmp_path)
    log.add(SPEED, 1, 0)
    log.close()
    with (tmp_path / "metrics.csv").open("ab") as file:
        file.write(torn)
    assert values(tmp_path) == [(0, SPEED, 1.0)]
    log = MetricsLog(tmp_path)
    log.add(SPEED, 2, 5)
    log.close()
    assert values(tmp_path) == [(0, SPEED, 1.0), (5, SPEED, 2.0)]


def test_damaged_lines_take_no_others_with_them(tmp_path):
    lines = [b"env_steps,name,value", b"0,critic/residual,1", b'5,"critic', b"x,y,z", b"1,2", b""]
    text = b"\n".join([*lines, b"9,critic/residual,2", b""])
    (tmp_path / "metrics.csv").write_bytes(text)
    assert values(tmp_path) == [(0, "critic/residual", 1.0), (9, "critic/residual", 2.0)]
    (tmp_path / "metrics.csv").write_bytes(b"\xff\0\n" * 3)
    assert values(tmp_path) == []


def test_times_and_counters_that_no_run_has_are_left_out(tmp_path):
    text = "".join(
        f"{line}\n"
        for line in (
            "0,wall_seconds,inf",
            "0,wall_seconds,nan",
            "0,wall_seconds,-1",
            "5,wall_seconds,3",
            "0,workers/replaced,inf",
            f"1{'0' * 30},{SPEED},1",
            f"-1,{SPEED},1",
            f"2,{SPEED},nan",
        )
    )
    (tmp_path / "metrics.csv").write_text(text)
    metrics = read_metrics(tmp_path)
    assert metrics.wall_seconds == 3 and metrics.workers_replaced == 0
    assert metrics.series[SPEED].env_steps.tolist() == [2]


def test_a_full_disk_is_an_error_there_and_leaves_whole_lines(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path)
    log.add(SPEED, 1, 0)
    log.flush()
    whole = (tmp_path / "metrics.csv").read_bytes()
    log.add(SPEED, 2, 1)
    monkeypatch.setattr(os, "fsync", Fault(os.fsync, 0))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        log.flush()
    log.close()  # may be done after an error
    assert (tmp_path / "metrics.csv").read_bytes() == whole
    monkeypatch.undo()
    log.flush()
    assert values(tmp_path) == [(0, SPEED, 1.0), (1, SPEED, 2.0)]


def test_event_files_of_an_older_version_are_converted_once(tmp_path):
    log_events(tmp_path, {SPEED: {10: 1.0, 20: 0.1}, "critic/loss/a": {10: 1.0}}, every=100)
    before = read_metrics(tmp_path)
    log = MetricsLog(tmp_path)
    after = read_metrics(tmp_path)
    assert (tmp_path / "metrics.csv").is_file()
    assert points(after.series[SPEED]) == points(before.series[SPEED])
    assert after.wall_seconds == before.wall_seconds
    log.add(SPEED, 3.0, 30)
    log.close()
    assert points(read_metrics(tmp_path).series[SPEED]) == {
        10: 1,
        20: float(np.float32(0.1)),
        30: 3,
    }
    assert read_metrics(tmp_path).wall_seconds == pytest.approx(before.wall_seconds, abs=10)


def test_a_thinned_log_keeps_evenly_spaced_steps_and_the_last_time(tmp_path):
    entries = [Entry(step, "critic/residual", 1.0) for step in range(101)]
    entries += [Entry(120, "wall_seconds", 60.0)]
    kept = thin(entries, 3)
    assert [entry.env_steps for entry in kept] == [0, 50, 100, 120]
    assert thin([], 3) == []
    (tmp_path / "metrics.csv").write_bytes(encode(kept))
    assert list(read_entries(tmp_path)) == kept


def test_a_folder_without_a_log_has_no_metrics(tmp_path):
    metrics = read_metrics(tmp_path)
    assert metrics.series == {} and np.isnan(metrics.wall_seconds) and metrics.workers_replaced == 0
