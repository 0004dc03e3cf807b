from pathlib import Path

import pytest

from mtrl_fairgrad.runs.run_dir import Evaluation, RunFolder
from tests.support.fabricated_runs import COURSE, FAIRGRAD, TASKS

EXHAUSTIVE = Path(__file__).parent / "exhaustive"


def pytest_collection_modifyitems(items):
    """Mark all tests of the folder; others that take long have the mark themselves."""
    for item in items:
        if EXHAUSTIVE in item.path.parents:
            item.add_marker("exhaustive")


@pytest.fixture
def make(tmp_path):
    """Fabricates a run folder and returns its path."""

    def make_run(
        name, course=COURSE, seeds=(0, 1), tasks=TASKS, method=FAIRGRAD, manifest=None, **config
    ):
        env = {"name": "mt10", "tasks": list(tasks), "horizon": 500, "one_hot": True, "workers": 1}
        env |= config.pop("env", {})
        config = {
            "env": env,
            "method": method,
            "seeds": list(seeds),
            "steps": 1000,
            "run_dir": name,
            **config,
        }
        folder = RunFolder.create(tmp_path / name, config, manifest or {})
        for env_steps, success in course.items():
            folder.append_evaluation(
                Evaluation(
                    env_steps, seed, task, 50 if env_steps == 1000 else 10, success[s][k], 1.0
                )
                for s, seed in enumerate(seeds)
                for k, task in enumerate(tasks)
            )
        return folder.path

    return make_run


@pytest.fixture
def no_reports(monkeypatch):
    """Skip the reports, which take longer than tiny runs."""
    monkeypatch.setattr("mtrl_fairgrad.train.finish", lambda folder: 0)
    monkeypatch.setattr("mtrl_fairgrad.api.run.Run.report", lambda self, **_: self.path)


@pytest.fixture
def happens(monkeypatch):
    """Functions of the trainer to call before a step, by its env_steps."""
    from mtrl_fairgrad.training import loop

    actions, step = {}, loop.step

    def watched(trainer):
        actions.pop(trainer.env_steps, lambda _: None)(trainer)
        step(trainer)

    monkeypatch.setattr(loop, "step", watched)
    return actions
