"""Which worker hosts which sub-environment, by measured step times, and that it changes nothing."""

import os
import signal
from multiprocessing import active_children

import numpy as np
import pytest

from mtrl_fairgrad.envs.gymnasium_suite import gymnasium_suite
from mtrl_fairgrad.envs.halves import union
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.envs.workers import load_balancing
from mtrl_fairgrad.envs.workers.host import Slot
from mtrl_fairgrad.envs.workers.pool import WorkerLost, WorkerPool
from tests.support.rollouts import assert_same, course, flatten
from tests.unit.envs.test_halves import ROWS, actions, make


def slots(count, halves=1):
    return [Slot(i, "task", 0, 0, half=i * halves // count) for i in range(count)]


def indices(shares):
    return [sorted(row.index for row in share) for share in shares]


def hosted(shares):
    return sorted(row.index for share in shares for row in share)


# ---- the choice ----


def test_halves_are_balanced_one_by_one_and_together():
    shares = load_balancing.balance_load(slots(10, halves=2), 2)
    counts = [[sum(row.half == half for row in share) for half in (0, 1)] for share in shares]
    assert counts == [[3, 2], [2, 3]]
    assert hosted(shares) == list(range(10))


@pytest.mark.parametrize(
    ("before", "seconds", "after"),
    [
        ([[0, 1], [2, 3]], [3, 3, 1, 1], [[1, 3], [0, 2]]),  # an exchange
        ([[0, 1, 2], [3]], [1, 1, 1, 1], [[1, 2], [0, 3]]),  # a move
        ([[0, 1], [2, 3]], [1.04, 1, 1, 1], [[0, 1], [2, 3]]),  # not worth it
        ([[0], [1]], [9, 1], [[0], [1]]),  # each has one
        ([[0, 1], [2, 3]], [3, 3, 1, 0], [[0, 1], [2, 3]]),  # one is not measured
    ],
)
def test_sub_environments_are_exchanged_where_that_pays(before, seconds, after):
    rows = slots(len(seconds))
    shares = [[rows[i] for i in share] for share in before]
    found = load_balancing.rebalance(shares, np.array(seconds, float))
    loads = [sum(seconds[i] for i in share) for share in indices(found)]
    assert sorted(loads) == sorted(sum(seconds[i] for i in share) for share in after)
    assert list(map(len, found)) == list(map(len, after))
    assert (found is shares) == (before == after)


def test_many_of_unequal_times_become_equal_with_few_moves():
    seconds = np.random.default_rng(0).lognormal(0, 0.5, 160)
    shares = load_balancing.balance_load(slots(160, halves=2), 8)
    found = load_balancing.rebalance(shares, seconds)
    loads = [sum(seconds[i] for i in share) for share in indices(found)]
    assert max(loads) <= 1.02 * np.mean(loads)
    assert hosted(found) == list(range(160))
    moved = sum(
        row not in share
        for row_share, share in zip(found, shares, strict=True)
        for row in row_share
    )
    assert moved < 40


# ---- moving ----


def others(pool):
    """Give every worker what another one has."""
    return pool._shares[1:] + pool._shares[:1]


def hosted_by_workers(pool):
    """Rows whose state each worker returns."""
    found = []
    for number in range(len(pool._shares)):
        pool._send(number, "get_state", None)
        found.append(sorted(pool.finish()))
    return found


def test_what_steps_return_does_not_depend_on_the_share():
    """Sub-environments change their workers within episodes and while a half is running."""
    every = actions(30)
    with make(0) as whole, make(2) as envs:
        assert np.array_equal(whole.reset()[0], envs.reset()[0])
        expected = [flatten(whole.step(action)) for action in every]
        first, second = envs.half_rows
        found = []
        for number, action in enumerate(every):
            envs.step_async(action[second], 1)
            envs.step_async(action[first], 0)
            if number in (7, 14, 21):
                assert envs._pool.rebalance(others(envs._pool)) == ROWS
                assert hosted_by_workers(envs._pool) == indices(envs._pool._shares)
            parts = [envs.step_wait(0), envs.step_wait(1)]
            found.append(flatten(union(parts, envs.half_rows)))
        assert_same(expected, found)
        assert whole._command("get_state") == envs._command("get_state")


def test_slow_ones_are_measured_and_spread():
    tasks = ["tests.support.point_mass:Slow-v0", "tests.support.point_mass:Near-v0"] * 2
    suite = gymnasium_suite(tasks, [{}, {}, {"edge": 999.0}, {"edge": 999.0}])
    with TaskVectorEnv(suite, [0], 2) as envs:
        envs.reset()
        assert envs.rebalance() == 0, "nothing is measured"
        assert indices(envs._pool._shares) == [[0, 2], [1, 3]]
        course(envs, np.zeros((30, 4, 1), np.float32))
        measured = envs._buffers.step_seconds
        assert (measured[[0, 2]] > 0.001).all() and (measured[[1, 3]] < 0.001).all()
        assert envs.rebalance() == 2
        assert [sum(i in share for i in (0, 2)) for share in indices(envs._pool._shares)] == [1, 1]
        assert envs.rebalance() == 0
        course(envs, np.zeros((3, 4, 1), np.float32))


def test_what_does_not_repeat_itself_stays_where_it_is(monkeypatch):
    near = "tests.support.point_mass:Near-v0"
    suite = gymnasium_suite([near, near], [{"drifts": True}, {"edge": 999.0}])
    with TaskVectorEnv(suite, [0], 2) as envs:
        envs.reset()
        course(envs, np.ones((25, 2, 1), np.float32))
        before = envs._pool._shares
        observations = envs._buffers.observations.copy()
        assert envs._pool.rebalance(others(envs._pool)) == 1
        assert hosted_by_workers(envs._pool) == indices(envs._pool._shares)
        assert before[0][0] in envs._pool._shares[0] and len(envs._pool._shares[0]) == 2
        assert np.array_equal(envs._buffers.observations, observations)
        course(envs, np.ones((3, 2, 1), np.float32))
        monkeypatch.setattr(WorkerPool, "rebalance", lambda *_: pytest.fail("nothing to try"))
        assert envs.rebalance() == 0
        monkeypatch.undo()


@pytest.mark.parametrize("command", ["adopt", "drop"])
def test_a_worker_lost_while_moving_is_replaced(monkeypatch, command):
    send = WorkerPool._send

    def killing(self, number, name, payload):
        if name == command and number == 1:
            os.kill(self._workers[number].process.pid, signal.SIGKILL)
        send(self, number, name, payload)

    with make(0) as whole, make(2) as envs:
        whole.reset(), envs.reset()
        monkeypatch.setattr(WorkerPool, "_send", killing)
        shares = others(envs._pool)
        monkeypatch.setattr("mtrl_fairgrad.envs.workers.pool.rebalance", lambda *_: shares)
        with pytest.raises(WorkerLost):
            envs.rebalance()
        monkeypatch.undo()
        assert np.array_equal(whole.reset()[0], envs.reset()[0])
        assert_same(course(whole, actions(5)), course(envs, actions(5)))
    assert not [each for each in active_children() if each.name.startswith("envs-")]
