"""MT50 as one vector environment."""

import numpy as np

from mtrl_fairgrad.envs.metaworld import MetaworldVectorEnv
from mtrl_fairgrad.envs.task_names import MT50
from tests.support import official_metaworld as official


def test_mt50_runs():
    with MetaworldVectorEnv(MT50, [0], workers=2, horizon=3) as envs:
        observations, _ = envs.reset()
        assert observations.shape == (50, 89) and np.array_equal(observations[:, 39:], np.eye(50))
        for actions in official.random_actions(4, rows=50):
            observations, rewards, _, _, infos = envs.step(actions)
        assert np.isfinite(observations).all() and np.isfinite(rewards).all()
        assert len(set(infos["goal"].tolist())) > 10, "tasks draw their goals independently"
