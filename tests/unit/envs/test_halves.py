"""Halves of the copies, stepped in turn."""

import os
import signal
from multiprocessing import active_children

import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, NoAsyncCallError, ResetNeeded

from mtrl_fairgrad.envs.gymnasium_suite import gymnasium_suite
from mtrl_fairgrad.envs.halves import half_rows, union
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.envs.workers.pool import WorkerLost
from tests.support.errors import refused
from tests.support.rollouts import assert_same, flatten

SUITE = gymnasium_suite(["tests.support.point_mass:Near-v0", "tests.support.point_mass:Far-v0"])
SEEDS, COPIES = (3, 5), 4
ROWS = len(SEEDS) * COPIES * 2
STEPS = 30


def make(workers=2, copies=COPIES):
    return TaskVectorEnv(SUITE, SEEDS, workers, "train", 60.0, copies)


def actions(steps=STEPS, rows=ROWS):
    return np.random.default_rng(0).uniform(-1, 1, (steps, rows, 1)).astype(np.float32)


def in_turn(envs, every):
    """Step both halves as training does, the second one always pending; return whole steps."""
    first, second = envs.half_rows
    done = []
    for number, action in enumerate(every):
        envs.step_async(action[first], 0)
        if number:
            done[-1].append(envs.step_wait(1))
        envs.step_async(action[second], 1)
        done.append([envs.step_wait(0)])
    done[-1].append(envs.step_wait(1))
    return [flatten(union(parts, envs.half_rows)) for parts in done]


def test_rows_of_halves_by_hand():
    assert [rows.tolist() for rows in half_rows(2, 1, 3)] == [[0, 1, 2, 3, 4, 5]]
    assert [rows.tolist() for rows in half_rows(2, 4, 1)] == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_slots_know_the_half_whose_rows_they_are():
    with make(0) as envs:
        for half, rows in enumerate(envs.half_rows):
            assert {envs._rows[row].half for row in rows} == {half}
            assert {envs._rows[row].copy // (COPIES // 2) for row in rows} == {half}
        assert [row.index for row in envs._rows] == list(range(ROWS)) == [*range(envs.num_envs)]


@pytest.mark.parametrize("copies", [3, 0])
def test_copies_are_one_or_even(copies):
    with refused("copies", copies):
        make(0, copies)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_halves_stepped_in_turn_return_what_whole_steps_do(workers):
    with make(0) as whole, make(workers) as halves:
        assert np.array_equal(whole.reset()[0], halves.reset()[0])
        expected = [flatten(whole.step(action)) for action in actions()]
        assert_same(expected, in_turn(halves, actions()))
    assert any(step["_episode"].any() for step in expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_half_leaves_the_rows_of_the_other_alone(workers):
    with make(workers) as envs:
        observations, _ = envs.reset()
        first, second = envs.half_rows
        for action in actions(3):
            envs.step_async(action[first], 0)
            moved = envs.step_wait(0)[0]
        assert (moved[:, 0] != observations[first, 0]).all()
        assert np.array_equal(envs._buffers.observations[second], observations[second])


def test_each_half_is_asked_for_by_itself():
    with make() as envs:
        envs.reset()
        first, second = envs.half_rows
        action = actions(1)[0]
        envs.step_async(action[second], 1)
        with pytest.raises(NoAsyncCallError):
            envs.step_wait(0)
        with pytest.raises(AlreadyPendingCallError):
            envs.step_async(action[second], 1)
        envs.step_async(action[first], 0)
        with pytest.raises(AlreadyPendingCallError):
            envs.reset()
        assert envs.ready(60.0, 0) and envs.ready(0.0, 1), "commands end in their order"
        assert envs.step_wait(0)[0].shape == (ROWS // 2, SUITE.observation_size)
        assert len(envs.step_wait(1)[0]) == ROWS // 2
        with pytest.raises(ValueError, match="one row per sub-environment"):
            envs.step_async(action, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_is_got_after_what_is_running_and_takes_nothing_from_it(workers):
    with make(workers) as envs, make(0) as alone:
        for each in (envs, alone):
            each.reset()
        action = actions(1)[0]
        for half, rows in enumerate(envs.half_rows):
            envs.step_async(action[rows], half)
        states = envs._command("get_state")
        expected = flatten(alone.step(action))
        assert states == alone._command("get_state")
        taken = union([envs.step_wait(half) for half in (0, 1)], envs.half_rows)
        assert_same([expected], [flatten(taken)])


@pytest.mark.parametrize("half", [0, 1])
def test_a_worker_lost_with_both_halves_running_is_reported_once(half):
    with make(0) as undisturbed, make(2) as envs:
        following = [undisturbed.reset()[1]["goal"], undisturbed.reset()[1]["goal"]]
        assert np.array_equal(envs.reset()[1]["goal"], following[0])
        pid = next(each.pid for each in active_children() if each.name == "envs-1")
        os.kill(pid, signal.SIGSTOP)
        for each, rows in enumerate(envs.half_rows):
            envs.step_async(actions(1)[0][rows], each)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            envs.step_wait(half)
        for each in (0, 1):
            assert envs.ready(0.0, each), "nothing is left to wait for"
            with pytest.raises(NoAsyncCallError):
                envs.step_wait(each)
        with pytest.raises(ResetNeeded):
            envs.step_async(actions(1)[0][envs.half_rows[0]], 0)
        assert np.array_equal(envs.reset()[1]["goal"], following[1])
        assert np.isfinite(in_turn(envs, actions(3))[-1]["rewards"]).all()
