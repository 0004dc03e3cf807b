"""Memory of whole processes with FairGrad."""

import json
import subprocess
import sys

from tests.support.paths import ROOT, SCRIPTS

SCRIPT = SCRIPTS / "benchmark_memory.py"


def test_the_limit_holds_for_whole_processes(tmp_path):
    size = ["--width", "32", "--batch", "2", "--steps", "2", "--others"]
    command = [sys.executable, str(SCRIPT), *size, "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    beyond = {row["case"]: row["jacobians_beyond_ls"] for row in found["rows"]}
    assert beyond["ls"] == 0 and 0.8 < beyond["fairgrad:1"] <= 1.25
