import os

import gymnasium
import numpy as np
import pytest
from gymnasium.error import (
    AlreadyPendingCallError,
    ClosedEnvironmentError,
    NoAsyncCallError,
    ResetNeeded,
)

from mtrl_fairgrad.envs.task_names import MT10, MT50, step_cost
from mtrl_fairgrad.envs.workers.host import Slot
from mtrl_fairgrad.envs.workers.load_balancing import balance_load
from tests.support import official_metaworld as official
from tests.support.rollouts import assert_same, course, flatten, reread
from tests.unit.envs.conftest import HORIZON, SEEDS, TASKS, make


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same(workers, training):
    actions = official.random_actions(2 * HORIZON + 5, rows=4)
    with make(workers=0) as inline, make(workers=workers) as spread_out:
        assert spread_out.workers == workers
        firsts = inline.reset()[0], spread_out.reset()[0]
        assert np.array_equal(*firsts)
        assert_same(course(inline, actions), course(spread_out, actions))


def test_streams_do_not_depend_on_neighbours():
    actions = official.random_actions(2 * HORIZON + 5, rows=4)
    with make(one_hot=False) as together, make(tasks=TASKS[1:], seeds=(5,), one_hot=False) as alone:
        assert np.array_equal(together.reset()[0][3:], alone.reset()[0])
        for step in actions:
            many, single = flatten(together.step(step)), flatten(alone.step(step[3:]))
            assert all(
                np.array_equal(many[name][3:], single[name])
                for name in many
                if "episode." not in name
            )


def test_rows_are_seed_major_with_the_tasks_identity(training):
    observations, infos = training.reset()
    assert observations.dtype == np.float32 and observations.shape == (4, 41)
    assert observations[:, 39:].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    for row, (seed, task) in enumerate((seed, task) for seed in SEEDS for task in TASKS):
        expected, _ = official.environment(task, seed, infos["goal"][row]).reset()
        assert np.array_equal(observations[row, :39], expected.astype(np.float32))


def test_final_obs_is_the_true_last_observation(training):
    """A time limit's value is bootstrapped from it: the next episode's first one would be wrong."""
    observations, infos = training.reset()
    plain = [
        official.environment(task, seed, infos["goal"][2 * s + k])
        for s, seed in enumerate(SEEDS)
        for k, task in enumerate(TASKS)
    ]
    for each in plain:
        each.reset()
    for number, actions in enumerate(official.random_actions(HORIZON, rows=4)):
        observations, _, terminated, truncated, infos = training.step(actions)
        expected = np.array(
            [each.step(action)[0] for each, action in zip(plain, actions, strict=True)], np.float32
        )
        assert np.array_equal(infos["final_obs"][:, :39], expected)
        assert infos["final_obs"].dtype == np.float32 and not terminated.any()
        assert truncated.tolist() == infos["_final_obs"].tolist() == [number == HORIZON - 1] * 4
        if number < HORIZON - 1:
            assert np.array_equal(infos["final_obs"], observations)
    for row, (seed, task) in enumerate((seed, task) for seed in SEEDS for task in TASKS):
        first, _ = official.environment(task, seed, infos["goal"][row]).reset()
        assert np.array_equal(observations[row, :39], first.astype(np.float32))
        assert np.abs(infos["final_obs"][row] - observations[row]).max() > 0.01


def test_episode_statistics(training):
    training.reset()
    steps = course(training, official.random_actions(2 * HORIZON, rows=4))
    for number in (0, 1):
        episode = steps[number * HORIZON : (number + 1) * HORIZON]
        assert (
            not any(each["_episode"].any() for each in episode[:-1])
            and episode[-1]["_episode"].all()
        )
        assert np.allclose(
            episode[-1]["episode.r"],
            np.sum([each["rewards"] for each in episode], axis=0),
            rtol=1e-12,
        )
        assert episode[-1]["episode.l"].tolist() == [HORIZON] * 4
        assert np.array_equal(
            episode[-1]["episode.s"], np.any([each["success"] for each in episode], axis=0)
        )


def reach_expert():
    from metaworld.policies import ENV_POLICY_MAP

    expert = ENV_POLICY_MAP["reach-v3"]()
    return lambda observations: np.array(
        [expert.get_action(each[:39]) for each in observations]
    ).clip(-1, 1)


@pytest.mark.parametrize("terminate", [False, True])
def test_success_is_any_steps_and_ends_only_when_asked(terminate):
    policy = reach_expert()
    away = np.array([[0, -1, 1, 0]], np.float32)
    with make(tasks=TASKS[:1], seeds=(0,), horizon=100, terminate_on_success=terminate) as envs:
        observations, infos = envs.reset()
        succeeded = []
        while not succeeded or not infos["_episode"][0]:
            # Having reached its goal the hand leaves: what counts is that it was there at some
            # step.
            observations, _, terminated, truncated, infos = envs.step(
                away if any(succeeded) else policy(observations)
            )
            succeeded.append(bool(infos["success"][0]))
            assert terminated[0] == (terminate and succeeded[-1])
            assert truncated[0] == (len(succeeded) == 100)
        assert infos["episode"]["s"][0] and infos["episode"]["l"][0] == len(succeeded)
        if terminate:
            assert succeeded[-1] and sum(succeeded) == 1 and len(succeeded) < 100
        else:
            assert not succeeded[-1] and any(succeeded)


def test_plays_exactly_the_chosen_goals_and_then_idles(evaluating):
    goals = np.array([[0, 49], [7, 7], [1, 2], [30, 3]])
    observations, infos = evaluating.reset(options={"goals": goals})
    played, actions = [infos["goal"]], official.random_actions(2 * HORIZON + 2, rows=4)
    for number, step in enumerate(actions[: 2 * HORIZON]):
        assert not infos["idle"].any()
        observations, _, _, _, infos = evaluating.step(step)
        if number == HORIZON - 1:
            played.append(infos["goal"])
    assert np.array_equal(np.stack(played, axis=1), goals)
    assert infos["idle"].all() and infos["_episode"].all() and infos["goal"].tolist() == [-1] * 4
    assert np.array_equal(observations, infos["final_obs"]), (
        "nothing follows, so the last observation stays"
    )
    for step in actions[2 * HORIZON :]:
        later, rewards, terminated, truncated, infos = evaluating.step(step)
        assert np.array_equal(later, observations) and infos["idle"].all() and not rewards.any()
        assert not (terminated | truncated | infos["success"] | infos["_episode"]).any()
    assert not evaluating.reset()[1]["idle"].any()


def test_idle_rows_do_not_hold_up_the_others():
    """Rows end at different times when success ends an episode: each keeps its own count."""
    policy = reach_expert()
    with make(tasks=TASKS[:1], horizon=100, role="eval", terminate_on_success=True) as envs:
        observations, infos = envs.reset(options={"goals": np.array([[0], [1]])})
        lengths, steps = np.zeros(2, int), 0
        while not infos["idle"].all():
            actions = policy(observations)
            actions[1] = 0.0
            observations, rewards, terminated, truncated, infos = envs.step(actions)
            steps += 1
            lengths[infos["_episode"]] = infos["episode"]["l"][infos["_episode"]]
            if lengths[0] and lengths[0] < steps:
                assert rewards[0] == 0.0 < rewards[1] and infos["idle"].tolist()[0]
        assert 0 < lengths[0] < lengths[1] == steps == 100
        assert truncated[1] and not terminated[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_restored_environments_go_on_bit_for_bit(workers):
    actions, begun = official.random_actions(3 * HORIZON + 7, rows=4), HORIZON + 7
    with make() as envs:
        envs.reset()
        course(envs, actions[:begun])
        state, whole = reread(envs.get_state()), course(envs, actions[begun:])
    with make(workers=workers) as restored:
        assert not restored.resumable
        observations = restored.set_state(state)
        assert restored.get_state() == state
        rest = course(restored, actions[begun:])
    assert np.array_equal(observations[:, 39:], [[1, 0], [0, 1]] * 2)
    assert_same(whole, rest)
    assert len({tuple(each["goal"]) for each in whole}) == 3, (
        "goals change, so their stream was restored too"
    )


def test_restoring_returns_the_first_observations(training):
    observations, _ = training.reset()
    state = training.get_state()
    training.step(np.ones((4, 4)))
    assert np.array_equal(training.set_state(state), observations)


def test_a_state_is_refused_before_reset_and_with_chosen_goals(evaluating):
    with make(tasks=TASKS[:1], seeds=(0,)) as envs:
        with pytest.raises(RuntimeError, match="get_state before reset"):
            envs.get_state()
        envs.reset()
        assert envs.resumable
    evaluating.reset(options={"goals": np.zeros((4, 1), int)})
    assert not evaluating.resumable


def test_a_state_of_an_older_version_at_an_episodes_first_step_is_accepted(training):
    observations, _ = training.reset()
    state = training.get_state()
    rows = [{key: row[key] for key in ("goal", "generator")} for row in state["rows"]]
    training.step(np.ones((4, 4)))
    assert np.array_equal(training.set_state({**state, "rows": rows}), observations)
    assert training.get_state() == state


def test_answers_are_copies(training):
    training.reset()
    before = flatten(training.step(np.ones((4, 4))))
    kept = {name: each.copy() for name, each in before.items()}
    training.step(-np.ones((4, 4)))
    assert all(np.array_equal(before[name], kept[name]) for name in before)


def test_is_a_gymnasium_vector_environment(training):
    assert isinstance(training, gymnasium.vector.VectorEnv)
    assert training.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.SAME_STEP
    assert training.num_envs == 4 and training.single_action_space.shape == (4,)
    observations, _ = training.reset()
    assert training.observation_space.contains(observations)
    assert training.single_observation_space.contains(observations[0])
    assert training.action_space.contains(training.action_space.sample())
    assert (
        training.step(training.action_space.sample())[0].shape == training.observation_space.shape
    )


def test_gymnasiums_statistics_agree(training):
    statistics = gymnasium.wrappers.vector.RecordEpisodeStatistics(training, stats_key="counted")
    statistics.reset()
    for actions in official.random_actions(HORIZON, rows=4):
        *_, infos = statistics.step(actions)
    assert np.array_equal(infos["_counted"], infos["_episode"]) and infos["_episode"].all()
    assert infos["counted"]["r"] == pytest.approx(infos["episode"]["r"], rel=1e-6)
    assert np.array_equal(infos["counted"]["l"], infos["episode"]["l"])


def test_calls_in_the_wrong_order():
    envs = make(tasks=TASKS[:1], seeds=(0,))
    with pytest.raises(ResetNeeded, match="call reset first"):
        envs.step(np.zeros((1, 4)))
    envs.reset()
    with pytest.raises(NoAsyncCallError, match="call step_async first"):
        envs.step_wait()
    envs.step_async(np.zeros((1, 4)))
    for call in (lambda: envs.step_async(np.zeros((1, 4))), envs.reset):
        with pytest.raises(AlreadyPendingCallError, match="call step_wait first"):
            call()
    envs.step_wait()
    envs.close()
    envs.close()
    with pytest.raises(ClosedEnvironmentError, match="make new ones"):
        envs.step(np.zeros((1, 4)))


def test_default_workers_leave_a_core_to_the_learner_unless_it_waits_for_them(monkeypatch):
    from mtrl_fairgrad.envs.workers.load_balancing import worker_count

    for cores, expected in [(1, 1), (2, 1), (8, 7)]:
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False
        )
        assert worker_count(None, "train") == expected
        assert worker_count(None, "eval") == cores


@pytest.mark.parametrize(
    ("tasks", "workers"), [(MT10, 1), (MT10, 2), (MT10, 3), (MT10, 10), (MT50, 7)]
)
def test_shares_are_balanced(tasks, workers):
    rows = [Slot(k, task, k, 0) for k, task in enumerate(tasks)]
    shares = balance_load(rows, workers)
    assert sorted(row.index for share in shares for row in share) == list(range(len(tasks)))
    loads = [sum(step_cost(row.task) for row in share) for share in shares]
    assert max(loads) - min(loads) <= max(step_cost(task) for task in tasks)
    assert min(len(share) for share in shares) >= 1
