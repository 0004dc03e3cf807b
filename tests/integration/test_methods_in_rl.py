"""Every registered method trains MT10, says what it is, and resumes exactly."""

import json
import shutil

import pytest
import torch

from mtrl_fairgrad import evaluate, method_names, train
from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training import factory, loop
from mtrl_fairgrad.training.run_setup import open_folder
from tests.support.fabricated_runs import groups_of
from tests.support.tiny_runs import ONE, TINY, assert_same_checkpoint, composed, rows, scalars

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

    def make_envs(config, tasks, evaluation):
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


# ---- what is said and recorded ----


def test_the_fallback_of_the_actor_is_said_once_and_recorded(tmp_path, capsys):
    folder = tmp_path / "r"
    assert train.main([*TINY, *ONE, "method=si", "steps=20", f"run_dir={folder}"]) == 0
    assert capsys.readouterr().out.count("needs positive losses, so the actor") == 1
    assert json.loads((folder / "manifest.json").read_text())["methods"] == {
        "critic": "si",
        "actor": "ls",
    }
    assert evaluate.main([str(folder), "--goals", "1", "--workers", "0"]) == 0


def test_an_ordinary_method_is_recorded_without_a_word(tmp_path, capsys):
    folder = tmp_path / "r"
    assert train.main([*TINY, *ONE, "method=ls", "steps=20", f"run_dir={folder}"]) == 0
    assert "note:" not in capsys.readouterr().out
    assert json.loads((folder / "manifest.json").read_text())["methods"] == {
        "critic": "ls",
        "actor": "ls",
    }


def test_runs_with_and_without_loss_alpha_are_told_apart(tmp_path, capsys):
    shared = [*TINY, *ONE, "steps=20", "method.solver=newton"]
    kinds = {
        "plain": [],
        "transformed": ["loss_alpha=0.5"],
        "scaled": ["convention=official_supervised"],
    }
    for name, more in kinds.items():
        assert train.main([*shared, *more, f"run_dir={tmp_path / name}"]) == 0
    assert capsys.readouterr().out.count("trained by fairgrad with loss_alpha=0.5") == 1
    recorded = RunFolder.open(tmp_path / "transformed").manifest["methods"]
    assert recorded == {"critic": "fairgrad with loss_alpha=0.5", "actor": "fairgrad"}
    groups = groups_of(*(tmp_path / name for name in kinds))
    assert [group.label for group in groups] == [
        "fairgrad (α=2, newton)",
        "fairgrad (α=2, newton, loss_alpha=0.5)",
        "fairgrad (α=2, newton, convention=official_supervised)",
    ]


def test_a_run_of_single_task_agents_is_evaluated_like_any_other(tmp_path):
    folder = tmp_path / "r"
    assert train.main([*TINY, "seeds=[0,1]", "method=stl", "steps=20", f"run_dir={folder}"]) == 0
    assert evaluate.main([str(folder), "--goals", "1", "--workers", "0"]) == 0
    logged = scalars(folder)
    assert "critic/gradient_norm/reach-v3" in logged, "each agent has its own"
    assert {value for _, value in logged["critic/cosine/mean"]} == {0.0}


# ---- going on ----


def test_a_method_with_state_resumes_bit_for_bit_from_the_command_line(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = [*TINY, *ONE, "method=famo", "loss_alpha=0.5"]
    assert train.main([*command, "steps=60", f"run_dir={whole}"]) == 0
    assert train.main([*command, "steps=40", f"run_dir={parts}"]) == 0
    assert train.main([f"resume={parts}", "steps=60"]) == 0
    assert_same_checkpoint(whole, parts)
    assert rows(whole)[-1] == rows(parts)[-1]


def test_a_run_cannot_go_on_with_another_loss_alpha_or_convention(tmp_path, capsys):
    folder = tmp_path / "r"
    assert train.main([*TINY, *ONE, "steps=20", f"run_dir={folder}"]) == 0
    assert (
        train.main(
            [f"resume={folder}", "steps=40", "loss_alpha=0.5", "convention=official_supervised"]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert (
        "loss_alpha (None before, 0.5 now)" in error
        and "convention.max_norm (None before, 1.0 now)" in error
    )
