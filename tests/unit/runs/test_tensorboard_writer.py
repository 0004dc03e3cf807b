"""TensorBoard's files: what its own reader makes of them, and what the disk's refusal leaves."""

import errno
import os

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mtrl_fairgrad.runs.metrics_log import read_metrics
from mtrl_fairgrad.runs.tensorboard_writer import EventFile
from mtrl_fairgrad.utils import atomic_io
from tests.support.sample_run import Fault
from tests.support.tiny_runs import scalars


def test_tensorboard_reads_what_was_written(tmp_path):
    file = EventFile(tmp_path, purge_step=0)
    values = [(step, 0.1 * step) for step in range(20)]
    for step, value in values:
        file.add_scalar("a/b", value, step)
    assert list(tmp_path.iterdir()) == [], "nothing is written until it is time"
    file.flush()
    file.add_scalar("c", 7, 3)
    file.close()
    found = scalars(tmp_path)
    assert found == {
        "a/b": [(step, pytest.approx(value)) for step, value in values],
        "c": [(3, 7.0)],
    }
    assert file.path.name.startswith("events.out.tfevents."), "by which TensorBoard finds it"
    assert os.uname().nodename not in file.path.name


def test_entries_that_a_predecessor_wrote_beyond_are_void(tmp_path):
    for start, stop in ((0, 10), (5, 8)):
        file = EventFile(tmp_path, purge_step=start)
        for step in range(start, stop):
            file.add_scalar("speed/updates_per_second", start, step)
        file.close()
    expected = [(step, 0 if step < 5 else 5) for step in range(8)]
    assert scalars(tmp_path)["speed/updates_per_second"] == expected
    series = read_metrics(tmp_path).series["speed/updates_per_second"]
    assert list(zip(series.env_steps, series.values, strict=True)) == expected


@pytest.mark.parametrize("times", [(2e9, 1e9, 1.5e9), (5.0, 1e9, 7.0), (1e9, 1e9, 1e9)])
def test_the_order_of_files_does_not_depend_on_the_clock(times, tmp_path, monkeypatch):
    for start, now in zip((0, 5, 3), times, strict=True):
        monkeypatch.setattr("time.time", lambda now=now: now)
        file = EventFile(tmp_path, purge_step=start)
        for step in range(start, start + 8):
            file.add_scalar("speed/updates_per_second", start, step)
        file.close()
    expected = [(step, 0 if step < 3 else 3) for step in range(11)]
    assert scalars(tmp_path)["speed/updates_per_second"] == expected
    series = read_metrics(tmp_path).series["speed/updates_per_second"]
    assert list(zip(series.env_steps, series.values, strict=True)) == expected


def test_what_waits_is_written_when_it_is_time(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_io, "FLUSH_SECONDS", 0)
    file = EventFile(tmp_path, purge_step=0)
    file.add_scalar("a", 1, 0)
    assert scalars(tmp_path) == {"a": [(0, 1.0)]}


def test_a_full_disk_is_an_error_there_and_leaves_whole_entries(tmp_path, monkeypatch):
    file = EventFile(tmp_path, purge_step=0)
    file.add_scalar("a", 1, 0)
    file.flush()
    whole = file.path.read_bytes()
    file.add_scalar("a", 2, 1)
    monkeypatch.setattr(os, "fsync", Fault(os.fsync, 0))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        file.flush()
    file.close()  # may be done after an error
    assert file.path.read_bytes() == whole
    monkeypatch.undo()
    file.flush()
    assert (
        scalars(tmp_path) == {"a": [(0, 1.0), (1, 2.0)]}
        and len(list(EventFileLoader(str(file.path)).Load())) == 4
    )
