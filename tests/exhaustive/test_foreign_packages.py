"""Commands run in a folder that has packages of the names of our rooms, and import none of them."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

NAMES = ("envs", "agents", "config", "runs", "training", "evaluation", "utils", "supervised")
TINY = ["benchmark.pairs=8", "benchmark.width=1", "epochs=1", "method=ls", "run_dir=r"]


@pytest.mark.parametrize("place", ["current folder", "PYTHONPATH"])
def test_no_command_imports_a_foreign_package(place, tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('foreign')")
    path = [str(tmp_path)] if place == "PYTHONPATH" else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(ROOT)])}
    commands = [["supervised", *TINY], ["report", "r"], ["verify", "r"]]
    helps = ("supervised", "train", "evaluate", "report", "verify", "search")
    for command in [*commands, *([name, "--help"] for name in helps)]:
        done = subprocess.run(
            [sys.executable, "-m", f"mtrl_fairgrad.{command[0]}", *command[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "foreign" not in done.stderr, (command, done.stderr)
