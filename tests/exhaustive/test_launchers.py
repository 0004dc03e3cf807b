"""Every launcher of sweeps with default settings, and with simulators in their own processes."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from mtrl_fairgrad.config.groups import config_dir
from tests.support import local_slurm
from tests.support.paths import ROOT
from tests.support.tiny_runs import POINT_MASS, rows

SHORT = [word for word in POINT_MASS if ".workers=" not in word]
CONFIGS = config_dir()
PLUGINS = {
    "basic": None,
    "parallel": "joblib",
    "local_cluster": "submitit",
    "slurm": "submitit",
    "ray_cluster": "ray",
}
"""Launcher → its plugin."""


def test_every_launcher_of_the_configuration_is_tested():
    assert {path.stem for path in (CONFIGS / "hydra/launcher").glob("*.yaml")} <= PLUGINS.keys()


@pytest.mark.parametrize("workers", [[], ["env.workers=1", "eval.workers=1"]], ids=["default", "1"])
@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_sweep_finishes(launcher, workers, tmp_path):
    plugin = PLUGINS[launcher]
    if plugin and find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is None:
        pytest.skip(f"hydra_{plugin}_launcher is not installed")
    command = [sys.executable, "-m", "mtrl_fairgrad.train", *SHORT, *workers, "-m", "seeds=[0],[1]"]
    command += [f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path}", "steps=40"]
    environment = None
    if launcher == "slurm":
        commands = tmp_path / ".slurm"  # hidden, and so no run
        commands.mkdir()
        environment = local_slurm.install(commands)
    found = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "sweep: 2 runs finished, 0 not" in found.stdout
    runs = [path.parent for path in tmp_path.glob("*/config.yaml")]
    assert len(runs) == 2 and all(rows(run)[-1]["env_steps"] == "40" for run in runs)
