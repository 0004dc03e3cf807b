"""How runs of a sweep share the cores."""

import pytest
from omegaconf import OmegaConf

from mtrl_fairgrad.cli import sweep_cores
from mtrl_fairgrad.cli.sweep_cores import cores_per_run, count_runs, limit_workers

JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
SUBMITIT = "hydra_plugins.hydra_submitit_launcher.submitit_launcher."


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["-m", "method=ls,fairgrad", "seeds=[0],[1],[2]", "steps=9"], 6),
        (["-m", "alpha=range(1,4)", "agent.width=choice(1,2)", "seeds=[0,1]"], 6),
        (["-m", "steps=9"], 1),
        (["-m", "seeds=["], 1),
    ],
)
def test_runs_are_the_combinations_of_all_choices(words, runs):
    assert count_runs(words) == runs


@pytest.mark.parametrize(
    ("launcher", "runs", "cores"),
    [
        ({"_target_": JOBLIB, "n_jobs": -1}, 16, 1),
        ({"_target_": JOBLIB, "n_jobs": -1}, 100, 1),
        ({"_target_": JOBLIB, "n_jobs": -1}, 2, 8),
        ({"_target_": JOBLIB, "n_jobs": 4}, 100, 4),
        ({"_target_": JOBLIB, "n_jobs": -9}, 100, 2),
        ({"_target_": JOBLIB, "n_jobs": None}, 100, 16),
        ({"_target_": f"{SUBMITIT}LocalLauncher"}, 5, 3),
        ({"_target_": f"{SUBMITIT}SlurmLauncher"}, 5, None),
        ({"_target_": "x.RayLauncher", "ray": {"remote": {"num_cpus": 3}}}, 5, 3),
        ({"_target_": "x.RayLauncher"}, 5, 1),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 5, None),
    ],
)
def test_runs_that_are_trained_at_once_divide_the_cores(launcher, runs, cores, monkeypatch):
    monkeypatch.setattr(sweep_cores, "available_cores", lambda: 16)
    assert cores_per_run(OmegaConf.create(launcher), runs) == cores


@pytest.mark.parametrize(
    ("cores", "given", "expected"),
    [
        (1, (None, None), (0, 0)),
        (4, (None, None), (3, 4)),
        (4, (7, 0), (7, 0)),
        (None, (None, 2), (None, 2)),
    ],
)
def test_only_default_numbers_of_processes_change(cores, given, expected):
    config = OmegaConf.create({"env": {"workers": given[0]}, "eval": {"workers": given[1]}})
    limit_workers(config, cores)
    assert (config.env.workers, config.eval.workers) == expected
