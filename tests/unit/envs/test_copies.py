"""Copies of a task's simulators: streams of their own, staggered ends, states within a step."""

import numpy as np
import pytest

from mtrl_fairgrad.envs.gymnasium_suite import gymnasium_suite
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from tests.support.rollouts import as_of_older_version, assert_same, flatten, reread

NEAR, FAR = "tests.support.point_mass:Near-v0", "tests.support.point_mass:Far-v0"
SUITE = gymnasium_suite([NEAR, FAR], horizon=12)
SEEDS = (3, 5)


def make(copies, workers=0, seeds=SEEDS, suite=SUITE, **options):
    return TaskVectorEnv(suite, seeds, workers, copies=copies, **options)


def goals(copies, resets=5, **options):
    """Goals of the first episodes, [resets, S, E, K]."""
    with make(copies, **options) as envs:
        drawn = [envs.reset()[1]["goal"] for _ in range(resets)]
        return np.array(drawn).reshape(resets, len(envs.seeds), copies, len(envs.tasks))


def test_each_copy_has_a_stream_of_its_own_whatever_their_number():
    one, two, four = goals(1), goals(2), goals(4)
    assert np.array_equal(one[:, :, 0], four[:, :, 0]), "copy 0's is that of a run without copies"
    assert np.array_equal(two, four[:, :, :2])
    assert len(np.unique(four)) == four.size
    assert np.array_equal(goals(4, seeds=(5,))[:, 0], four[:, 1]), "and of the other seeds"


def run(envs, steps, generator):
    """Step both halves in turn, with the second one running at the end."""
    first, second = envs.half_rows
    seen = []
    for _ in range(steps):
        action = generator.uniform(-1, 1, (envs.num_envs, 1)).astype(np.float32)
        envs.step_async(action[first], 0)
        if 1 in envs._pending:
            seen.append(flatten(envs.step_wait(1)))
        envs.step_async(action[second], 1)
        seen.append(flatten(envs.step_wait(0)))
    return seen


@pytest.mark.parametrize("stagger", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_state_while_a_half_is_running_leads_on_bit_for_bit(workers, stagger):
    """Also where that step ends episodes, whose next goals are drawn once."""
    for steps in (7, 12):
        generator = np.random.default_rng(steps)
        with make(4, workers, stagger=stagger) as envs:
            envs.reset()
            run(envs, steps, generator)
            state = reread(envs.get_state())
            drawn, after = generator.bit_generator.state, run(envs, 30, generator)
            again = [envs.get_state(), envs.step_wait(1)][0]
        assert list(state["results"]) == ["1"]
        with make(4, stagger=stagger) as restored:
            restored.set_state(as_of_older_version(state))
            assert restored.get_state() == state
        with make(4, stagger=stagger) as restored:
            restored.set_state(state)
            assert restored.get_state() == state
            generator.bit_generator.state = drawn
            assert_same(after, run(restored, 30, generator))
            assert restored.get_state() == again


def test_damaged_results_are_refused():
    with make(2) as envs:
        envs.reset()
        run(envs, 3, np.random.default_rng(0))
        state = envs.get_state()
        for results in ({"1": {}}, {"2": state["results"]["1"]}, {"x": {}}, [1]):
            with pytest.raises(ValueError, match="damaged"):
                envs.set_state({**state, "results": results})
        short = {**state["results"]["1"], "rewards": "AAAA"}
        with pytest.raises(ValueError, match="damaged"):
            envs.set_state({**state, "results": {"1": short}})
        with make(4) as others, pytest.raises(ValueError, match="copies"):
            others.set_state(state)


def test_staggered_copies_end_evenly_over_the_time_limit_and_are_truncated():
    with make(4, stagger=True) as envs:
        for _ in range(2):  # also the episodes that replace those of a lost worker
            envs.reset()
            ends = {copy: [] for copy in range(4)}
            for number in range(1, 26):
                _, _, terminated, truncated, infos = envs.step(np.zeros((envs.num_envs, 1)))
                assert not terminated.any()
                for row in np.flatnonzero(truncated):
                    ends[envs._rows[row].copy].append((number, infos["episode"]["l"][row]))
            lengths = {copy: sorted(set(found))[:2] for copy, found in ends.items()}
            assert lengths == {
                0: [(3, 3), (15, 12)],
                1: [(6, 6), (18, 12)],
                2: [(9, 9), (21, 12)],
                3: [(12, 12), (24, 12)],
            }


def test_copies_share_a_frozen_goal():
    from mtrl_fairgrad.envs.metaworld import MetaworldSuite

    suite = MetaworldSuite(tasks=("reach-v3",), horizon=5, goal_choice="frozen")
    found = goals(2, 2, suite=suite, seeds=(0,))
    assert set(found.flatten().tolist()) == set(suite.goals(0, "reach-v3").tolist())
