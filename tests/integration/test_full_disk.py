"""Runs whose disk is full, read-only or gone: one sentence, exit code 1, and later they end as if
nothing had been.
"""

import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest

from mtrl_fairgrad import train, verify
from mtrl_fairgrad.training.trainer import Trainer
from mtrl_fairgrad.utils import atomic_io
from tests.support.faulty_disk import PatchedOs
from tests.support.sample_run import fork
from tests.support.tiny_runs import assert_same_checkpoint, checkpoint_steps, rows, scalars

PENDULUM = [
    "env=gymnasium",
    "env.tasks=[Pendulum-v1]",
    "env.success_return=-30",
    "env.horizon=6",
    "env.workers=0",
    "eval.workers=0",
    "eval.every=10",
    "eval.episodes=1",
    "steps=40",
    "log_every=1",
    "agent.width=8",
    "agent.batch_size=8",
    "agent.buffer_size=25",
    "agent.warmup_steps=10",
    "method=ls",
    "progress=false",
    "threads=1",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert train.main([*PENDULUM, f"run_dir={folder}"]) == 0
    return folder


def in_a_process(log, prepare, arguments):
    """The command's exit code; what it said goes to `log`."""

    def body():
        file = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 2)
        sys.stderr = os.fdopen(2, "w")
        prepare()
        code = train.main(arguments)
        sys.stderr.flush()
        os._exit(code)

    process = fork.Process(target=body)
    process.start()
    process.join(120)
    return process.exitcode


def check_said(text, folder, *expected):
    [line] = [line for line in text.splitlines() if line]
    assert (
        line.startswith("error: ")
        and line.endswith(f"continue with python -m mtrl_fairgrad.train resume={folder}.")
        and line.count(". ") == 0
    )
    for each in expected:
        assert each in line


def check_goes_on(folder, whole):
    """Nothing is lost or doubled."""
    assert train.main([f"resume={folder}"]) == 0
    assert_same_checkpoint(folder, whole)
    assert rows(folder) == rows(whole)
    found, expected = scalars(folder), scalars(whole)
    for each in (found, expected):
        for tag in ("speed/updates_per_second", "speed/env_steps_per_second"):
            each.pop(tag)
    assert found == expected
    assert verify.main([str(folder)]) == 0


@pytest.mark.parametrize(
    ("limit", "what", "safe"),
    [
        (7000, "checkpoints/000000000000", "there is no checkpoint yet"),
        (31000, "events.out.tfevents", "the checkpoint at env_steps=30 is safe"),
    ],
)
def test_files_may_not_grow_further(limit, what, safe, tmp_path, whole):
    """A limit on the size of files refuses like a full disk, everywhere and without rights: first a
    part, then all.
    """
    folder = tmp_path / "r"

    def prepare():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    assert in_a_process(tmp_path / "log", prepare, [*PENDULUM, f"run_dir={folder}"]) == 1
    check_said(
        (tmp_path / "log").read_text(), folder, os.strerror(errno.EFBIG), what, safe, "make room"
    )
    check_goes_on(folder, whole)


def test_a_real_disk_is_full(tmp_path, whole):
    disk, folder = tmp_path / "disk", tmp_path / "disk" / "r"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=76k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        assert in_a_process(tmp_path / "log", lambda: None, [*PENDULUM, f"run_dir={folder}"]) == 1
        check_said((tmp_path / "log").read_text(), folder, os.strerror(errno.ENOSPC), "make room")
        assert not list(folder.rglob(".*.tmp")), "nothing half-written takes room"
        subprocess.run(["mount", "-o", "remount,size=5m", str(disk)], check=True)
        check_goes_on(folder, whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def at_the_third_checkpoint(monkeypatch):
    """Has something happen right before a run's third checkpoint."""

    def arrange(happening):
        left, checkpoint = [happening, None, None], Trainer.checkpoint

        def later(trainer):
            if left and (due := left.pop()) is not None:
                due()
            checkpoint(trainer)

        monkeypatch.setattr(Trainer, "checkpoint", later)

    return arrange


def test_the_folder_vanishes(tmp_path, whole, capsys, at_the_third_checkpoint):
    folder, elsewhere = tmp_path / "r", tmp_path / "elsewhere"
    at_the_third_checkpoint(lambda: folder.rename(elsewhere))
    assert train.main([*PENDULUM, f"run_dir={folder}"]) == 1
    check_said(capsys.readouterr().err, folder, f"{folder} is missing: restore it")
    assert not folder.exists(), "no half of a run is put in its place"
    elsewhere.rename(folder)
    assert checkpoint_steps(folder) == [10, 0]
    check_goes_on(folder, whole)


def test_the_disk_becomes_read_only(tmp_path, whole, capsys, at_the_third_checkpoint, monkeypatch):
    folder = tmp_path / "r"

    def refuse(function, *arguments, **folders):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))

    with monkeypatch.context() as patch:
        at_the_third_checkpoint(lambda: patch.setattr(atomic_io, "os", PatchedOs(refuse)))
        assert train.main([*PENDULUM, f"run_dir={folder}"]) == 1
        said = capsys.readouterr().err
        check_said(
            said,
            folder,
            os.strerror(errno.EROFS),
            "the checkpoint at env_steps=10 is safe: restore access",
        )
        assert train.main([f"resume={folder}"]) in (1, 2), "and it cannot go on before that"
        assert "Traceback" not in capsys.readouterr().err
    check_goes_on(folder, whole)
