"""MT50 as one vector environment, and simulators that change their worker."""

import numpy as np

from mtrl_fairgrad.envs.halves import union
from mtrl_fairgrad.envs.metaworld import MetaworldSuite, MetaworldVectorEnv
from mtrl_fairgrad.envs.task_names import MT10, MT50
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from tests.support import official_metaworld as official
from tests.support.rollouts import assert_same, flatten


def test_mt50_runs():
    with MetaworldVectorEnv(MT50, [0], workers=2, horizon=3) as envs:
        observations, _ = envs.reset()
        assert observations.shape == (50, 89) and np.array_equal(observations[:, 39:], np.eye(50))
        for actions in official.random_actions(4, rows=50):
            observations, rewards, _, _, infos = envs.step(actions)
        assert np.isfinite(observations).all() and np.isfinite(rewards).all()
        assert len(set(infos["goal"].tolist())) > 10, "tasks draw their goals independently"


def test_metaworlds_simulators_change_their_worker_within_episodes():
    suite = MetaworldSuite(tasks=MT10, horizon=40)
    every = official.random_actions(60, rows=20)
    with (
        TaskVectorEnv(suite, [0], 2, copies=2) as alone,
        TaskVectorEnv(suite, [0], 2, copies=2) as moved,
    ):
        assert np.array_equal(alone.reset()[0], moved.reset()[0])
        for number, actions in enumerate(every):
            for half, rows in enumerate(moved.half_rows):
                moved.step_async(actions[rows], half)
            if number in (17, 50):
                assert moved._pool.rebalance(moved._pool._shares[::-1]) == 20
            parts = [moved.step_wait(half) for half in (0, 1)]
            assert_same([flatten(alone.step(actions))], [flatten(union(parts, moved.half_rows))])
