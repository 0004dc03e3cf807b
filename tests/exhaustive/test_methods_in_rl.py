"""Every registered method trains MT10 and resumes exactly."""

import shutil

import pytest
import torch

from mtrl_fairgrad import method_names
from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.training import factory, loop
from mtrl_fairgrad.training.run_setup import open_folder
from tests.support.tiny_runs import composed, scalars

MT10 = [
    "env.horizon=50",
    "env.workers=0",
    "steps=300",
    "log_every=50",
    "agent.width=32",
    "agent.batch_size=16",
    "agent.buffer_size=300",
    "agent.warmup_steps=50",
    "progress=false",
    "threads=1",
]


class Unused:
    """Stands in for the simulators of evaluation, which these runs have no use for."""

    def close(self, grace):
        pass


@pytest.fixture(scope="module")
def simulators():
    """MT10, built once: reading the models takes longer than a run."""
    config = composed(*MT10)
    with factory.make_envs(config, task_names(config.env), evaluation=False) as envs:
        yield envs


@pytest.fixture
def trainer(simulators, tmp_path, monkeypatch):
    """Makes the trainer of a command line."""
    made = []

    def make_trainer(*arguments):
        config = composed(*MT10, f"run_dir={tmp_path / 'run'}", *arguments)
        config.env.tasks = list(task_names(config.env))
        made.append(factory.make_trainer(config, open_folder(config, list(arguments), "cpu")))
        return made[-1]

    def make_envs(config, tasks, evaluation, on_lost):
        return Unused() if evaluation else simulators

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(factory, "make_envs", make_envs)
    monkeypatch.setattr(simulators, "close", lambda grace: None)
    yield make_trainer
    for one in made:
        one.resources.close()
    torch.set_num_threads(threads)


def steps(run, count):
    for _ in range(count):
        loop.step(run)


def state_of(run):
    groups = {
        "agent": run.learner.agent.state(),
        "replay": {"rows": run.learner.replay.rows[: run.learner.replay.size]},
        "streams": {"all": run.learner.streams.state()},
    }
    return {
        f"{group}/{key}": value.clone()
        for group, found in groups.items()
        for key, value in found.items()
    }


def assert_trained(before, after):
    assert all(value.isfinite().all() for value in after.values() if value.is_floating_point())
    for part in ("actor/shared.", "critics/shared.", "targets/", "temperature/own."):
        moved = [
            not torch.equal(value, after[key])
            for key, value in before.items()
            if key.startswith(f"agent/{part}")
        ]
        assert all(moved) and moved, part
    assert after["agent/updates"] == 250


@pytest.mark.parametrize("name", method_names())
def test_every_method_trains_mt10_and_goes_on_from_a_checkpoint_bit_for_bit(
    name, trainer, tmp_path
):
    run = trainer(f"method={name}")
    before = state_of(run)
    steps(run, 250)
    run.checkpoint()
    shutil.copytree(run.folder.path, tmp_path / "copy")
    steps(run, 50)
    run.check_faults()
    after = state_of(run)
    assert_trained(before, after)

    resumed = trainer(f"method={name}", f"resume={tmp_path / 'copy'}")
    assert resumed.env_steps == 250
    steps(resumed, 50)
    found = state_of(resumed)
    assert found.keys() == after.keys()
    assert [key for key, value in after.items() if not torch.equal(value, found[key])] == []

    needs = run.learner.agent.critic_method.needs_positive_losses
    assert run.folder.manifest["methods"] == {"critic": name, "actor": "ls" if needs else name}
    run.logger.flush()
    logged = set(scalars(run.folder.path))
    gradient_norm = "critic/gradient_norm/reach-v3" if name == "stl" else "critic/gradient_norm"
    assert {
        "critic/loss/reach-v3",
        "critic/cosine/mean",
        "actor/cosine/share_negative",
        gradient_norm,
    } <= logged
