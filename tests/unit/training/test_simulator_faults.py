"""Numbers that are not finite, from simulators or of a policy: each seed and task for itself."""

import numpy as np
import pytest
import torch

from mtrl_fairgrad import evaluate, train
from mtrl_fairgrad.envs.gymnasium_suite import GymnasiumTask
from mtrl_fairgrad.runs.fault_log import read_faults
from mtrl_fairgrad.training.simulator_faults import SavedFaults, SimulatorFaults
from mtrl_fairgrad.utils.file_schema import check_schema
from mtrl_fairgrad.utils.validation import ConfigError
from tests.support.tiny_runs import FALLING, assert_same_checkpoint, checkpoint, rows

pytestmark = pytest.mark.usefixtures("no_reports")

RUN = [
    *FALLING,
    *("env.task_options=[{edge: 50},{edge: 60}]", "env.horizon=12", "seeds=[0,1,2]"),
    *("method=ls", "eval.every=30", "steps=60", "agent.warmup_steps=10"),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The run without faults."""
    folder = tmp_path_factory.mktemp("runs") / "sound"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "finish", lambda folder: 0)
        assert train.main([*RUN, f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture
def blind(monkeypatch):
    """Let the second task of seed 1 observe NaN from the fifth step of each episode."""

    def spoil(role):
        simulate = GymnasiumTask._simulate

        def spoilt(self, action):
            transition = simulate(self, action)
            training = self._queue is None
            now = "train" if training else "eval"
            if (self.seed, now) == (1, role) and "60" in self.task and self.elapsed >= 5:
                self._base_observation[:] = np.nan
            return transition

        monkeypatch.setattr(GymnasiumTask, "_simulate", spoilt)

    return spoil


def found(folder):
    """Which faults there were: network, condition, seed, edge, response."""
    return {
        (each.network, each.condition, each.seed, each.task[-3:-1], each.response)
        for each in read_faults(folder)
        if each.condition == "non_finite"
    }


def assert_same_seeds(first, second, seeds):
    """Networks, replay and evaluations of these seeds agree."""
    one, two = checkpoint(first), checkpoint(second)
    for name, tensor in one["agent"].items():
        if name.startswith(("actor", "critics", "targets", "temperature")) and tensor.ndim:
            assert torch.equal(tensor[seeds], two["agent"][name][seeds]), name
    assert torch.equal(one["replay"]["rows"][:, seeds], two["replay"]["rows"][:, seeds])
    kept = [[row for row in rows(each) if int(row["seed"]) in seeds] for each in (first, second)]
    assert kept[0] == kept[1]


@pytest.mark.exhaustive
def test_a_seed_that_observes_nan_in_training_stops_alone_and_is_named(
    blind, sound, tmp_path, capsys
):
    blind("train")
    folder, parts = tmp_path / "r", tmp_path / "parts"
    assert train.main([*RUN, f"run_dir={folder}"]) == 0
    output = capsys.readouterr().out
    assert "seed 1, tests.support.point_mass:PointMass-v0(edge=60): simulator: " in output
    assert found(folder) >= {
        ("simulator", "non_finite", 1, "60", "count"),
        ("critic", "non_finite", 1, "60", "stop"),
    }
    assert {seed for _, _, seed, _, _ in found(folder)} == {1}
    assert_same_seeds(sound, folder, [0, 2])
    counts = {each.network: each for each in read_faults(folder)}["simulator"]
    # Of each episode's 12 steps the fifth and those after it, and what is observed before them.
    assert (counts.updates, counts.of_updates, counts.first_update) == (5 * 8, 60, 4)
    assert train.main([*RUN, f"run_dir={parts}", "steps=33"]) == 0
    assert train.main([f"resume={parts}", "steps=60"]) == 0
    assert_same_checkpoint(folder, parts)
    assert read_faults(folder) == read_faults(parts)


def test_nan_observations_in_an_evaluation_are_named_and_change_no_other(
    blind, sound, tmp_path, capsys
):
    blind("eval")
    folder = tmp_path / "r"
    assert train.main([*RUN, f"run_dir={folder}"]) == 0
    assert found(folder) == {("evaluation", "non_finite", 1, "60", "count")}
    [fault] = [each for each in read_faults(folder) if each.network == "evaluation"]
    assert (fault.updates, fault.of_updates, fault.first_update) == (52, 52, 0)
    assert_same_seeds(sound, folder, [0, 2])
    capsys.readouterr()
    assert evaluate.main([str(folder), "--goals", "2", "--workers", "0"]) == 0
    output = capsys.readouterr().out
    assert "warning: seed 1, " in output and "in 2 of 2 episodes" in output


def test_nan_rewards_that_are_skipped_leave_the_run_resumable(tmp_path):
    folder, parts = tmp_path / "r", tmp_path / "parts"
    unpaid = "env.task_options=[{edge: 50},{edge: 60, unpaid_at: 7}]"
    words = [*RUN, unpaid, "seeds=[0]", "guard.non_finite=skip", "agent.warmup_steps=3"]
    assert train.main([*words, f"run_dir={folder}"]) == 0
    assert train.main([*words, f"run_dir={parts}", "steps=33"]) == 0, "inside an episode"
    assert train.main([f"resume={parts}", "steps=60"]) == 0
    assert_same_checkpoint(folder, parts)
    unknown = {row["task"][-13:]: row["return"] == "" for row in rows(folder)}
    assert list(unknown.values()) == [False, True]


def diverge(*seeds):
    """Let the policies of these seeds (indices) diverge."""

    def change(trainer):
        for tensor in trainer.learner.agent.actor.shared.values():
            tensor[list(seeds)] = torch.nan

    return change


def test_a_seed_whose_policy_diverges_stops_alone(happens, sound, tmp_path):
    happens[40] = diverge(1)
    assert train.main([*RUN, f"run_dir={tmp_path / 'r'}"]) == 0
    faults = found(tmp_path / "r")
    assert ("actor", "non_finite", 1, "50", "stop") in faults
    assert {seed for _, _, seed, _, _ in faults} == {1}
    assert_same_seeds(sound, tmp_path / "r", [0, 2])


def test_a_run_ends_when_the_policies_of_all_seeds_diverge(happens, tmp_path, capsys):
    happens[40] = diverge(0, 1, 2)
    assert train.main([*RUN, f"run_dir={tmp_path / 'r'}"]) == 1
    error = capsys.readouterr().err
    assert "every seed has stopped training" in error and "seed 2, " in error


def test_counts_come_back_from_a_checkpoint_and_damaged_ones_are_refused():
    counts = SimulatorFaults([3, 5], ["a", "b", "c"])
    bad = np.zeros((2, 4, 3), bool)
    bad[1, :2, 2] = True
    counts.count_transitions(bad, 7)
    counts.count_transitions(bad, 11)
    counts.count_episodes(bad.transpose(0, 2, 1), 20)
    state, other = counts.state(), SimulatorFaults([3, 5], ["a", "b", "c"])
    other.restore(state)
    assert other.faults(30) == counts.faults(30)
    assert [
        (each.seed, each.task, each.updates, each.of_updates, each.first_update)
        for each in other.faults(30)
    ] == [(5, "c", 4, 30, 7), (5, "c", 2, 4, 20)]
    check_schema(state, SavedFaults)
    for damage in (
        {},
        [],
        {**state, "episodes": None},
        {**state, "first": None},
        {**state, "counts": [[[0.5] * 3] * 2] * 2},
        {**state, "counts": [[[10**30] * 3] * 2] * 2},
    ):
        with pytest.raises(ConfigError):
            check_schema(damage, SavedFaults)
    for damage in ({}, {**state, "counts": [[[1]]]}, {**state, "first": [[], [[1]]]}):
        with pytest.raises(ValueError, match="use another checkpoint"):
            other.restore(damage)
