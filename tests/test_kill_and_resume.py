"""Runs that are killed at random moments end as if they had not been; scripts/kill_and_resume.py does it 200 times."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "kill_and_resume.py"


@pytest.mark.slow
def test_a_few_kills_change_nothing(tmp_path):
    command = [sys.executable, str(SCRIPT), "--kills", "6", "--folder", str(tmp_path / "runs")]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 differences" in found.stdout and int(found.stdout.split()[1]) >= 6
