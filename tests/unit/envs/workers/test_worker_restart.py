"""Workers that die or hang, and what begins in their place."""

import os
import signal
import time
from multiprocessing import active_children

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from mtrl_fairgrad.envs.evaluation import EvaluationRollout, all_goals, evaluate
from mtrl_fairgrad.envs.gymnasium_suite import gymnasium_suite
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.envs.workers.pool import WorkerError, WorkerLost
from tests.support.processes import alive
from tests.support.rollouts import assert_same, course, reread

SUITE = gymnasium_suite(
    ["tests.support.point_mass:Unreliable-v0", "tests.support.point_mass:Unreliable-v0"],
    [{}, {"edge": 9.0}],
)
SEEDS = (3, 5)
STILL, CRASH, HANG = 0.0, 1.0, -1.0


def make(workers=2, timeout=None, role="train"):
    return TaskVectorEnv(SUITE, SEEDS, workers, role, timeout)


def actions(*of_rows):
    return np.array(of_rows or [STILL] * 4, np.float32)[:, None]


def processes():
    return {each.name: each.pid for each in active_children() if each.name.startswith("envs-")}


def lose(envs, name="envs-0"):
    """Kill a worker within a step."""
    os.kill(processes()[name], signal.SIGSTOP)
    envs.step_async(actions())
    os.kill(processes()[name], signal.SIGKILL)
    with pytest.raises(WorkerLost):
        envs.step_wait()


def goals_of(episodes, steps=5):
    """Goals and first observations of the first episodes of an undisturbed rollout."""
    with make(workers=0) as envs:
        observations, infos = envs.reset()
        found = [(infos["goal"], observations)]
        for step in range((episodes - 1) * steps):
            observations, _, _, _, infos = envs.step(actions())
            if step % steps == steps - 1:
                found.append((infos["goal"], observations))
    return found


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (CRASH, r"died with exit code 3, it hosted"),
        (HANG, r"did not answer within 1 s and was killed, it hosted"),
    ],
)
def test_a_worker_that_crashes_or_hangs_is_replaced_and_all_begin_anew(action, said):
    expected = goals_of(3)
    with make(timeout=1.0) as envs:
        envs.reset()
        for _ in range(6):
            envs.step(actions())
        before, started = processes(), time.monotonic()
        with pytest.raises(WorkerLost, match=said) as caught:
            envs.step(actions(action, STILL, STILL, STILL))
        assert time.monotonic() - started < 5 and caught.value.loss in str(caught.value)
        assert not envs.resumable
        with pytest.raises(ResetNeeded):
            envs.step(actions())
        observations, infos = envs.reset()
        after = processes()
        assert len(after) == 2 and len(after.items() & before.items()) == 1, (
            "the other one keeps its simulators"
        )
        assert {row["actions"] for row in envs.get_state()["rows"]} == {b""}
        assert np.array_equal(infos["goal"], expected[2][0]) and np.array_equal(
            observations, expected[2][1]
        )
        assert np.isfinite(course(envs, [actions()] * 7)[-1]["rewards"]).all()
    assert not alive([*before.values(), *after.values()])


def test_the_goals_that_follow_do_not_depend_on_who_got_how_far():
    """In the last step of an episode some may have begun the next one, which nobody saw."""
    expected = goals_of(3)
    with make() as envs:
        envs.reset()
        for (goals, firsts), name in zip(expected[1:], ("envs-0", "envs-1"), strict=True):
            course(envs, [actions()] * 4)
            lose(envs, name)
            observations, infos = envs.reset()
            assert np.array_equal(infos["goal"], goals) and np.array_equal(observations, firsts)


@pytest.mark.parametrize("loaded", [False, True])
def test_what_is_saved_after_a_replacement_goes_on_bit_for_bit(loaded):
    with make(1) as envs:
        envs.reset()
        course(envs, [actions()] * 7)
        state = envs.get_state()
        if loaded:
            envs.set_state(state)
        course(envs, [actions()] * 9)
        lose(envs)
        envs.reset()
        course(envs, [actions()] * 3)
        saved = reread(envs.get_state())
        whole = course(envs, [actions()] * 12)
    with make(workers=0) as restored:
        restored.set_state(saved)
        assert_same(whole, course(restored, [actions()] * 12))
    goals = [tuple(each["goal"]) for each in whole]
    assert len(set(goals)) == 4 and np.array_equal(goals[0], goals_of(5)[4][0])


def test_several_that_are_lost_are_told_one_by_one():
    with make(timeout=1.0) as envs:
        envs.reset()
        envs.step_async(actions(HANG, CRASH, STILL, STILL))
        losses = []
        for attempt in (envs.step_wait, envs.reset, envs.reset):
            try:
                attempt()
            except WorkerLost as lost:
                losses.append(lost.loss)
        assert len(losses) == 2 and len(set(losses)) == 2
        assert len(processes()) == 2 and envs.resumable


def test_one_that_dies_while_state_is_asked_for():
    with make(1) as envs:
        envs.reset()
        os.kill(processes()["envs-0"], signal.SIGKILL)
        with pytest.raises(WorkerLost):
            envs.get_state()
        goals = envs.reset()[1]["goal"]
        assert (
            np.array_equal(goals, goals_of(2)[1][0])
            and envs.get_state()["rows"][0]["goal"] == goals[0]
        )


def test_time_in_which_nobody_looked_is_not_counted():
    """The learner may have been stopped, and its workers with it."""
    with make(1, timeout=1.2) as envs:
        envs.reset()
        pid = processes()["envs-0"]
        os.kill(pid, signal.SIGSTOP)
        envs.step_async(actions())
        time.sleep(2.5)
        assert not envs.ready()
        os.kill(pid, signal.SIGCONT)
        envs.step_wait()


def test_a_simulator_that_raises_is_a_fault_and_none_is_replaced():
    with make(1) as envs:
        envs.reset()
        with pytest.raises(WorkerError, match="seed 3 raised ValueError") as caught:
            envs._command("set_state", {row: {"generator": {}, "goal": 0} for row in range(4)})
        assert not isinstance(caught.value, WorkerLost)
        assert envs.closed and not processes()


def test_an_evaluation_played_again_on_replaced_workers_gives_the_same():
    goals = all_goals(SUITE, SEEDS)[..., :3]

    def policy(observations):
        return np.clip(observations[:, :1], -0.9, 0.9)

    with make(workers=0, role="eval") as envs:
        expected = evaluate(envs, policy, goals)
    with make(1, role="eval") as envs:
        playing = EvaluationRollout(envs, policy, goals)
        for _ in range(7):
            playing.advance(wait=True)
        os.kill(processes()["envs-0"], signal.SIGKILL)
        with pytest.raises(WorkerLost):
            play_on(playing)
        found = evaluate(envs, policy, goals)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def play_on(playing):
    while not playing.done:
        playing.advance(wait=True)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_no_time_at_all_is_refused(timeout):
    with pytest.raises(ValueError, match=f"timeout={timeout}"):
        make(timeout=timeout)
