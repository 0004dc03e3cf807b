"""Runs with several simulators of each task: two halves, exact resume, lost workers, schedules."""

import json
import math
import os
import signal
from multiprocessing import active_children

import numpy as np
import pytest
import torch

from mtrl_fairgrad import train, verify
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training import loop
from tests.support.tiny_runs import (
    FALLING,
    assert_same_checkpoint,
    checkpoint,
    checkpoint_steps,
    rows,
    scalars,
)

pytestmark = pytest.mark.usefixtures("no_reports")

RUN = [
    *FALLING,
    *("env.copies=4", "env.horizon=14", "method=ls", "agent.n_step=2", "agent.buffer_size=101"),
    *("steps=150", "eval.every=50", "log_every=20"),
]


def stop(trainer):
    trainer.stop.request(signal.SIGTERM)


def logged(folder):
    return {tag: values for tag, values in scalars(folder).items() if "speed/" not in tag}


@pytest.mark.parametrize("stagger", ["true", pytest.param("false", marks=pytest.mark.exhaustive)])
def test_a_run_that_is_stopped_and_resumed_is_the_uninterrupted_one(stagger, tmp_path, happens):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = [*RUN, f"env.stagger={stagger}"]
    assert train.main([*words, f"run_dir={whole}"]) == 0
    for env_steps in (4, 100):
        happens[env_steps] = stop
        assert train.main([*words, f"run_dir={parts}", "resume=auto"]) == 128 + signal.SIGTERM
        assert checkpoint_steps(parts)[0] == env_steps + 4
        state = json.loads((RunFolder.open(parts).checkpoints()[0] / "state.json").read_text())
        assert state["running"] == state["environments"]["results"] == [1]
    assert train.main([f"resume={parts}"]) == 0
    assert_same_checkpoint(whole, parts)
    assert rows(whole) == rows(parts) and logged(whole) == logged(parts)
    assert not any(finding.problems for finding in verify.verify(RunFolder.open(parts)))


def test_what_counts_transitions_is_due_when_its_multiple_is_passed(tmp_path):
    assert train.main([*RUN, f"run_dir={tmp_path / 'r'}"]) == 0
    assert [int(row["env_steps"]) for row in rows(tmp_path / "r")[::2]] == [0, 52, 100, 152]
    assert checkpoint_steps(tmp_path / "r") == [152, 100]
    saved = checkpoint(tmp_path / "r")
    assert int(saved["replay"]["added"]) == 152 - 2, "the second half's last step is running"
    first = math.ceil(15 / 4)
    assert int(saved["agent"]["updates"]) == 152 // 4 - first
    logged_at = [step for step, _ in scalars(tmp_path / "r")["speed/env_steps_per_second"]]
    assert logged_at == [20, 40, 60, 80, 100, 120, 140]


def test_a_seed_beside_another_is_the_same_as_alone(tmp_path):
    """Its simulators' data agree bit for bit, and its networks up to the order of sums."""
    words = [*RUN, "env.copies=2", "steps=60", "eval.every=60"]
    assert train.main([*words, "seeds=[3,5]", f"run_dir={tmp_path / 'both'}"]) == 0
    assert train.main([*words, "seeds=[5]", f"run_dir={tmp_path / 'alone'}"]) == 0
    both, alone = checkpoint(tmp_path / "both"), checkpoint(tmp_path / "alone")
    before = 15  # from here on the policies' actions agree up to rounding
    assert torch.equal(both["replay"]["rows"][:before, 1], alone["replay"]["rows"][:before, 0])
    assert torch.equal(both["streams"]["generators"][1], alone["streams"]["generators"][0])
    for name, value in alone["agent"].items():
        if name.startswith(("actor/", "critics/")) and value.ndim:
            torch.testing.assert_close(both["agent"][name][1:], value, rtol=1e-3, atol=1e-4)


def test_a_lost_worker_restarts_both_halves_and_no_row_is_lost(happens, tmp_path):
    def kill(trainer):
        (pid,) = (child.pid for child in active_children() if child.name == "envs-0")
        os.kill(pid, signal.SIGKILL)

    words = [*RUN, "env.workers=1", "steps=80"]
    happens[40] = kill
    assert train.main([*words, f"run_dir={tmp_path / 'whole'}"]) == 0
    replay = checkpoint(tmp_path / "whole")["replay"]
    assert int(replay["added"]) == 80 - 2
    assert len({tuple(row.flatten().tolist()) for row in replay["rows"]}) == 78
    happens.update({40: kill, 60: stop})
    assert train.main([*words, f"run_dir={tmp_path / 'parts'}"]) == 128 + signal.SIGTERM
    assert train.main([f"resume={tmp_path / 'parts'}"]) == 0
    assert_same_checkpoint(tmp_path / "whole", tmp_path / "parts")


def test_the_second_half_acts_again_after_a_worker_lost_at_a_checkpoint(happens, tmp_path):
    """Out of turn; only its random actions change."""
    acted = []

    def watch(trainer):
        act = trainer.learner.act

        def noted(observations, env_steps, half=0):
            before = trainer.learner.exploration.remaining.clone()
            actions = act(observations, env_steps, half)
            changed = (trainer.learner.exploration.remaining != before).any().item()
            acted.append((half, changed))
            return actions

        trainer.learner.act = noted
        (pid,) = (child.pid for child in active_children() if child.name == "envs-0")
        get_state = trainer.envs.get_state

        def killing():
            trainer.envs.get_state = get_state
            os.kill(pid, signal.SIGKILL)
            return get_state()

        trainer.envs.get_state = killing

    happens[36] = watch
    words = [*RUN, "env.workers=1", "agent.exploration_rate=1", "steps=80", "eval.every=40"]
    assert train.main([*words, f"run_dir={tmp_path / 'r'}"]) == 0
    assert [half for half, *_ in acted[:5]] == [0, 1, 1, 0, 1], "the second half acts again"
    assert all(changed == bool(half) for half, changed in acted)


def test_training_may_have_shorter_episodes_than_evaluations(tmp_path):
    words = [*RUN, "env.train_horizon=3", "env.task_options=[{edge: 50},{edge: 60}]", "steps=40"]
    lengths = []

    def noted(trainer):
        wait = trainer.envs.step_wait

        def step_wait(half=0):
            step = wait(half)
            lengths.extend(step[-1]["episode"]["l"][step[-1]["_episode"]])
            return step

        trainer.envs.step_wait = step_wait

    step = loop.step
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            loop,
            "step",
            lambda trainer: (trainer.env_steps or noted(trainer), step(trainer))[1],
        )
        assert train.main([*words, f"run_dir={tmp_path / 'r'}"]) == 0
    assert set(np.array(lengths).tolist()) == {3}
    folder = RunFolder.open(tmp_path / "r")
    assert "14" in folder.manifest["protocol"]["episode_steps"]
