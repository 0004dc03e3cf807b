"""Runs killed at random moments end like uninterrupted ones; the scripts do it for longer."""

import contextlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from loop_disk import LoopDisk

from tests.support.paths import SCRIPTS


def said(tmp_path, name, *arguments):
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def can_mount():
    """Whether a file system in a file can be mounted on this machine."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):
        LoopDisk(Path(folder) / "disk", megabytes=2).unmount()
        return True
    return False


@pytest.mark.parametrize(
    ("suite", "kills"),
    [("gymnasium", 4), ("background", 4), ("mt1", 4), ("copies", 30), ("stagger", 30)],
)
def test_kills_change_nothing(suite, kills, tmp_path):
    words = said(
        tmp_path,
        "kill_and_resume.py",
        "--suite",
        suite,
        "--kills",
        str(kills),
        "--folder",
        str(tmp_path / "runs"),
    )
    assert "0 differences" in words and int(words.split()[1]) >= kills


@pytest.mark.parametrize("suite", ["background", "stagger"])
def test_power_cuts_change_nothing(suite, tmp_path):
    if not can_mount():
        pytest.skip("mounting is not allowed here")
    words = said(tmp_path, "kill_and_resume.py", "--suite", suite, "--kills", "4", "--power")
    assert "0 differences" in words and int(words.split()[1]) >= 4


def test_a_short_soak_finds_no_failure(tmp_path):
    words = said(tmp_path, "soak.py", "--minutes", "0.1")
    assert words.endswith("\n0 failures\n") and re.search(r"\brun: [1-9]", words)


def test_stalls_wrong_clocks_and_killed_workers_change_nothing(tmp_path):
    faults = ("stalled", "wrong clock", "worker killed", "SIGKILL")
    words = said(tmp_path, "soak.py", "--minutes", "0.3", "--faults", *faults)
    assert words.endswith("\n0 failures\n") and any(f"{fault}: " in words for fault in faults[:3])
