"""Checkpoints that a resumed run continues from, and the steps that were running then."""

from base64 import b64encode
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mtrl_fairgrad.runs.run_dir import RunFolderError
from mtrl_fairgrad.training.restore import (
    load_running_steps,
    restore_learner,
    save_simulators,
    simulator_state,
)
from tests.support.errors import refused
from tests.support.small_learner import SMALL, configuration, learner_of


def folder_of(env_steps, state):
    """A folder whose newest checkpoint has this state."""
    learner = learner_of(*SMALL)
    saved = SimpleNamespace(env_steps=env_steps, state=state, groups=learner.state())
    return SimpleNamespace(
        path="runs/old", has_checkpoint=lambda: True, resume_checkpoint=lambda *_, **__: saved
    )


def test_a_run_that_an_older_version_ended_inside_an_episode_cannot_be_extended():
    folder, learner = folder_of(20, {"environments": None}), learner_of(*SMALL)
    with refused("steps", 21):
        restore_learner(learner, folder, configuration(*SMALL, "steps=21"))
    for steps in (20, 15):
        assert restore_learner(learner, folder, configuration(*SMALL, f"steps={steps}"))
    whole = folder_of(20, {"environments": {}})
    assert restore_learner(learner, whole, configuration(*SMALL, "steps=21"))


STATE_OF_ONE = {
    "made": {"tasks": ["x"]},
    "rows": [
        {
            "goal": 0,
            "limit": 1,
            "returned": 0.0,
            "observation": bytes(4),
            "actions": b"",
            "generator": np.random.PCG64(0).state,
        }
    ],
    "results": {},
}
"""Of a simulator that waits for its first action."""


def saved_steps(observations, actions):
    """A checkpoint with these running steps, by half."""
    state, tensors = save_simulators(STATE_OF_ONE, observations, actions)
    return SimpleNamespace(state=state, groups={"simulators": tensors})


@pytest.mark.parametrize(
    "state",
    [
        {"replaced": []},
        {"replaced": {"training": -1}},
        {"replaced": {"training": float("inf")}},
        {"evaluation": "20"},
        {"environments": [1]},
    ],
)
def test_a_state_of_other_types_is_refused(state):
    folder, learner = folder_of(20, {"environments": {}, **state}), learner_of(*SMALL)
    with pytest.raises(RunFolderError, match=rf"state.json .* is invalid \({next(iter(state))}"):
        restore_learner(learner, folder, configuration(*SMALL, "steps=21"))


def test_running_steps_are_saved_with_what_was_observed_before():
    before = [np.random.default_rng(half).normal(size=(3, 5)).astype("f4") for half in (0, 1)]
    taken = {1: np.random.default_rng(2).normal(size=(3, 2)).astype("f4")}
    saved = saved_steps(before, taken)
    older = {"1": [b64encode(each.tobytes()).decode() for each in (before[1], taken[1])]}
    for each in (saved, SimpleNamespace(state={"running": older}, groups={})):
        current = [np.zeros((3, 5), np.float32) for _ in before]
        found = load_running_steps(each, current, 2)
        assert list(found) == [1] and np.array_equal(found[1], taken[1])
        assert np.array_equal(current[1], before[1]) and not current[0].any()
    without = SimpleNamespace(state={}, groups={})
    assert load_running_steps(without, current, 2) == {}, "in checkpoints of older versions"


def test_damaged_running_steps_are_refused():
    observations = [np.zeros((3, 5), np.float32)]
    saved = saved_steps(observations, {0: np.zeros((3, 2), np.float32)})
    for running in ({"0": ["no", "no"]}, {"2": ["", ""]}, {"0": 1}, 1, [1], ["x"]):
        damaged = SimpleNamespace(state={"running": running}, groups=saved.groups)
        with pytest.raises(ValueError, match="damaged"):
            load_running_steps(damaged, observations, 2)
    with pytest.raises(ValueError, match="damaged"):
        load_running_steps(saved, observations, 3)


def test_tensors_of_simulators_that_numpy_does_not_have_are_refused():
    saved = saved_steps([np.zeros((3, 5), np.float32)], {})
    saved.groups["simulators"]["goals"] = torch.zeros(1, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="damaged"):
        simulator_state(saved)
