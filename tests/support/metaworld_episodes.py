"""Episodes of Meta-World's tasks, ours and the official ones."""

import numpy as np

from mtrl_fairgrad.envs.metaworld import (
    MetaworldSuite,
    MetaworldTask,
)
from tests.support import official_metaworld as official

BARE = MetaworldSuite(one_hot=False)


def visit(task, seed, goals, actions, suite):
    """Play `goals` with `actions`; each episode's first observation; each step's, with reward and
    success.
    """
    environment = MetaworldTask(task, seed, 0, suite, "eval")
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


def check_used_environment_starts_like_a_fresh_one(task):
    """After 60 steps of one goal, another goal's episode equals that of a fresh official one.

    Exact resuming depends on it.
    """
    actions = official.random_actions(120)
    firsts, used, rewards, _ = visit(
        task, 1, [5, 6], actions, MetaworldSuite(one_hot=False, horizon=60)
    )
    fresh = official.environment(task, 1, 6)
    assert np.array_equal(firsts[1], fresh.reset()[0].astype(np.float32))
    for step in range(60, 120):
        observation, reward, *_ = fresh.step(actions[step])
        assert (
            np.array_equal(used[step], observation.astype(np.float32)) and rewards[step] == reward
        )


def check_a_saved_episode_leads_on_bit_for_bit(task, longest):
    """Restored in a fresh simulator after a random number of steps, with its physical state."""

    def physical_state(made):
        data = made.environment.data
        return [data.time, data.qpos, data.qvel, data.qacc_warmstart, data.mocap_pos, data.ctrl]

    generator = np.random.default_rng([len(task), *task.encode()])
    actions = generator.uniform(-1.2, 1.2, (20 + longest + 40, 4)).astype(np.float32)
    stop = 20 + int(generator.integers(1, longest))
    suite = MetaworldSuite(one_hot=False)
    first, second = (MetaworldTask(task, 3, 0, suite, "train") for _ in range(2))
    first.play(None)
    for action in actions[:20]:
        first.step(action)
    first.begin()
    for action in actions[20:stop]:
        first.step(action)
    state = first.get_state()
    assert second.set_state(state) and second.get_state() == state
    for action in actions[stop : stop + 40]:
        for one, two in zip(physical_state(first), physical_state(second), strict=True):
            assert np.array_equal(one, two)
        assert first.step(action) == second.step(action)
        assert np.array_equal(first.observation, second.observation)
    assert second.set_state({**state, "returned": state["returned"] + 1e-9}) is False
