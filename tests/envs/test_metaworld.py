import numpy as np
import pytest

from envs.metaworld import GOALS, OBSERVATION_SIZE, Settings, SubEnvironment, stream
from envs.tasks import MT50
from tests.envs import official


def visit(task, seed, goals, actions, settings):
    """Play `goals` with `actions`; each episode's first observation; each step's, with reward and success."""
    environment = SubEnvironment(task, seed, 0, settings, "eval")
    environment.play(goals)
    firsts, observations, rewards, successes = [environment.observation.copy()], [], [], []
    for action in actions:
        reward, _, truncated, success = environment.step(action)
        observations.append(environment.observation.copy())
        rewards.append(reward)
        successes.append(success)
        if truncated:
            environment.begin()
            firsts.append(environment.observation.copy())
    return np.array(firsts), np.array(observations), np.array(rewards), np.array(successes)


@pytest.mark.parametrize(
    ("task", "reward_version"),
    [("reach-v3", "v2"), ("push-v3", "v2"), ("peg-insert-side-v3", "v2"), ("drawer-close-v3", "v1")],
)
def test_is_the_official_environment_bit_for_bit(task, reward_version):
    goals, horizon = [41, 3], 260
    actions = official.random_actions(len(goals) * horizon)
    settings = Settings(horizon=horizon, reward_version=reward_version)
    firsts, observations, rewards, successes = visit(task, 7, goals, actions, settings)
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
    environment = SubEnvironment(task, 12, 0, Settings(), "train")
    expected = official.rand_vecs(official.goals(task, 12))
    assert np.array_equal(official.rand_vecs(environment._goals), expected)


@pytest.mark.slow
@pytest.mark.parametrize("task", MT50)
def test_goals_are_those_of_mt1_for_every_task(task):
    for seed in (0, 4_000_000_000):
        mine = official.rand_vecs(SubEnvironment(task, seed, 0, Settings(), "train")._goals)
        assert np.array_equal(mine, official.rand_vecs(official.goals(task, seed)))


def test_leaves_numpys_global_stream_alone():
    before = np.random.get_state()[1].copy()
    environment = SubEnvironment("reach-v3", 0, 0, Settings(), "train")
    environment.play(None)
    assert np.array_equal(np.random.get_state()[1], before)


def test_nothing_random_happens_outside_the_saved_stream():
    """With a goal set neither a reset nor a step draws from any generator that Metaworld holds."""
    environment = SubEnvironment("push-v3", 0, 0, Settings(horizon=5), "train")
    inner = environment.environment
    holders = (inner, inner.action_space, inner.observation_space, inner.goal_space)
    before = [str(each.np_random.bit_generator.state) for each in holders]
    environment.play(None)
    for action in official.random_actions(12):
        if environment.step(action).truncated:
            environment.begin()
    assert [str(each.np_random.bit_generator.state) for each in holders] == before
    assert inner.seeded_rand_vec is False and inner._freeze_rand_vec is True


@pytest.mark.slow
@pytest.mark.parametrize("task", MT50)
def test_used_environment_starts_like_a_fresh_one(task):
    """What resuming rests on: after one goal's 60 steps, another goal's episode is as in a fresh one."""
    actions = official.random_actions(120)
    _, used, rewards, _ = visit(task, 1, [5, 6], actions, Settings(horizon=60))
    firsts, fresh, fresh_rewards, _ = visit(task, 1, [6, 5], actions[60:], Settings(horizon=60))
    assert np.array_equal(used[60:], fresh) and np.array_equal(rewards[60:], fresh_rewards)
    plain = official.environment(task, 1, 6)
    assert np.array_equal(plain.reset()[0].astype(np.float32), firsts[0])
    for step, action in enumerate(actions[60:]):
        observation, reward, *_ = plain.step(action)
        assert np.array_equal(observation.astype(np.float32), fresh[step]) and reward == fresh_rewards[step]


def test_one_hot_follows_the_observation():
    bare = SubEnvironment("reach-v3", 0, 2, Settings(), "eval")
    marked = SubEnvironment("reach-v3", 0, 2, Settings(identities=4), "eval")
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
    assert stream(3, "reach-v3", "goals", 7).permutation(GOALS)[:6].tolist() == [0, 32, 3, 45, 10, 31]


def test_goals_are_drawn_uniformly():
    """50 resets visit about 32 of the 50 goals, and all of them in the long run."""
    draws = stream(0, "push-v3", "train").integers(GOALS, size=5000)
    counts = np.bincount(draws, minlength=GOALS)
    assert counts.min() > 50 and counts.max() < 160
