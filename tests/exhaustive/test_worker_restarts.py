"""Simulator processes that are killed at random moments."""

import subprocess
import sys

from tests.support.paths import ROOT


def test_a_run_whose_workers_are_killed_at_random_moments_ends_as_it_should(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "kill_workers.py"),
        "--kills",
        "6",
        "--folder",
    ]
    found = subprocess.run(
        [*command, str(tmp_path / "r")], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "6 signals (1 of them SIGSTOP)" in found.stdout and found.stdout.rstrip().endswith(
        "0 problems"
    )
