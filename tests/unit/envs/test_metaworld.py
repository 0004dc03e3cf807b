import numpy as np
import pytest

from mtrl_fairgrad.envs.metaworld import (
    GOALS,
    OBSERVATION_SIZE,
    OBSERVATIONS,
    MetaworldSuite,
    MetaworldTask,
)
from mtrl_fairgrad.envs.rng import stream
from mtrl_fairgrad.envs.task_names import MT10
from tests.support import official_metaworld as official
from tests.support.metaworld_episodes import (
    BARE,
    check_a_saved_episode_leads_on_bit_for_bit,
    check_used_environment_starts_like_a_fresh_one,
    visit,
)


@pytest.mark.parametrize(
    ("task", "reward_version"),
    [
        ("reach-v3", "v2"),
        ("push-v3", "v2"),
        ("peg-insert-side-v3", "v2"),
        ("drawer-close-v3", "v1"),
    ],
)
def test_is_the_official_environment_bit_for_bit(task, reward_version):
    goals, horizon = [41, 3], 260
    actions = official.random_actions(len(goals) * horizon)
    suite = MetaworldSuite(one_hot=False, horizon=horizon, reward_version=reward_version)
    firsts, observations, rewards, successes = visit(task, 7, goals, actions, suite)
    for episode, goal in enumerate(goals):
        plain = official.environment(task, 7, goal, reward_version)
        first, _ = plain.reset()
        assert np.array_equal(firsts[episode], first.astype(np.float32))
        for step in range(episode * horizon, (episode + 1) * horizon):
            observation, reward, _, _, info = plain.step(actions[step])
            assert np.array_equal(observations[step], observation.astype(np.float32))
            assert rewards[step] == reward
            assert successes[step] == info["success"]
    assert len(np.unique(rewards)) > 100


@pytest.mark.parametrize("task", ["reach-v3", "peg-insert-side-v3", "window-open-v3"])
def test_goals_are_those_of_mt1(task):
    environment = MetaworldTask(task, 12, 0, BARE, "train")
    expected = official.rand_vecs(official.goals(task, 12))
    assert np.array_equal(official.rand_vecs(environment._goals), expected)


def test_leaves_numpys_global_stream_alone():
    before = np.random.get_state()[1].copy()
    environment = MetaworldTask("reach-v3", 0, 0, BARE, "train")
    environment.play(None)
    assert np.array_equal(np.random.get_state()[1], before)


def test_nothing_random_happens_outside_the_saved_stream():
    """With a goal set neither a reset nor a step draws from any generator that Metaworld holds."""
    environment = MetaworldTask("push-v3", 0, 0, MetaworldSuite(one_hot=False, horizon=5), "train")
    inner = environment.environment
    holders = (inner, inner.action_space, inner.observation_space, inner.goal_space)
    before = [str(each.np_random.bit_generator.state) for each in holders]
    environment.play(None)
    for action in official.random_actions(12):
        if environment.step(action).truncated:
            environment.begin()
    assert [str(each.np_random.bit_generator.state) for each in holders] == before
    assert inner.seeded_rand_vec is False and inner._freeze_rand_vec is True


@pytest.mark.exhaustive
@pytest.mark.parametrize("task", MT10)
def test_used_environment_starts_like_a_fresh_one(task):
    check_used_environment_starts_like_a_fresh_one(task)


@pytest.mark.parametrize("task", MT10)
def test_a_saved_episode_leads_on_bit_for_bit(task):
    check_a_saved_episode_leads_on_bit_for_bit(task, longest=60)


def test_one_hot_follows_the_observation():
    bare = MetaworldTask("reach-v3", 0, 2, BARE, "eval")
    marked = MetaworldTask("reach-v3", 0, 2, MetaworldSuite(tasks=MT10[:4]), "eval")
    for each in (bare, marked):
        each.play([9])
        each.step(np.ones(4, np.float32))
    assert marked.observation.dtype == np.float32
    assert np.array_equal(marked.observation[:OBSERVATION_SIZE], bare.observation)
    assert marked.observation[OBSERVATION_SIZE:].tolist() == [0, 0, 1, 0]
    assert np.any(marked.observation[36:39] != 0), "the goal is observable"


def test_streams_differ_by_seed_task_role_and_the_rest():
    draws = [
        tuple(stream(*key).integers(GOALS, size=8))
        for key in (
            *((0, "reach-v3", "train"), (1, "reach-v3", "train"), (0, "push-v3", "train")),
            *((0, "reach-v3", "eval"), (0, "reach-v3", "goals", 5), (0, "reach-v3", "goals", 6)),
        )
    ]
    assert len(set(draws)) == len(draws)


def test_streams_stay_what_they_were():
    """Written out, so that a change, which would silently alter every run's goals, is noticed."""
    draws = stream(3, "reach-v3", "train").integers(GOALS, size=10).tolist()
    assert draws == [44, 30, 23, 19, 7, 1, 17, 31, 6, 39]
    assert stream(3, "reach-v3", "goals", 7).permutation(GOALS)[:6].tolist() == [
        0,
        32,
        3,
        45,
        10,
        31,
    ]


def test_goals_are_drawn_uniformly():
    """50 resets visit about 32 of the 50 goals, and all of them in the long run."""
    draws = stream(0, "push-v3", "train").integers(GOALS, size=5000)
    counts = np.bincount(draws, minlength=GOALS)
    assert counts.min() > 50 and counts.max() < 160


# ---- the protocol of 2021 ----

SEEN = [0, 1, 2, 4, 5, 6, 11, 12, 13, 36, 37, 38]


def test_positions_of_hand_objects_and_goal_are_twelve_numbers():
    suite = MetaworldSuite(tasks=MT10[:4], observation="hand_objects_goal")
    assert list(OBSERVATIONS["hand_objects_goal"]) == SEEN and suite.observation_size == 16
    some, full = (MetaworldTask("push-v3", 0, 2, each, "eval") for each in (suite, BARE))
    for each in (some, full):
        each.play([9])
    for action in official.random_actions(20):
        assert some.step(action) == full.step(action)
        assert np.array_equal(some.observation, [*full.observation[SEEN], 0, 0, 1, 0])
    assert np.ptp(full.observation[SEEN]) > 0.1 and np.any(some.observation[9:12])


def test_a_frozen_goal_is_one_for_each_task_and_seed_in_training_and_evaluation():
    suite = MetaworldSuite(one_hot=False, horizon=3, goal_choice="frozen")
    frozen = {(seed, task): suite.goals(seed, task).tolist() for seed in range(20) for task in MT10}
    assert all(len(goals) == 1 and 0 <= goals[0] < GOALS for goals in frozen.values())
    assert len({tuple(goals) for goals in frozen.values()}) > 40, "tasks and seeds draw their own"
    environment = MetaworldTask("reach-v3", 7, 0, suite, "train")
    environment.play(None)
    before, played = environment.get_state()["generator"], []
    for action in official.random_actions(9):
        played.append(environment.goal)
        if environment.step(action).truncated:
            environment.begin()
    assert played == frozen[7, "reach-v3"] * 9 and environment.get_state()["generator"] == before
    plain = official.environment("reach-v3", 7, played[0])
    assert np.array_equal(environment.observation, plain.reset()[0].astype(np.float32))


def test_frozen_goals_stay_what_they_were():
    """Written out, so that a change, which would silently alter every run's goals, is noticed."""
    suite = MetaworldSuite(goal_choice="frozen")
    assert [int(suite.goals(seed, task)[0]) for seed in (0, 1) for task in MT10[:3]] == [
        32,
        43,
        29,
        36,
        37,
        15,
    ]
