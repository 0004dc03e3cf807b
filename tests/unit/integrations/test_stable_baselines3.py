"""`StableBaselinesVecEnv` against Stable-Baselines3's own vector environment of the same tasks."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.support.errors import refused

pytest.importorskip("stable_baselines3")

from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mtrl_fairgrad.envs import make_vec
from mtrl_fairgrad.integrations.stable_baselines3 import StableBaselinesVecEnv

HORIZON = 5


class Walk(gymnasium.Env):
    """Moves as told; ends after a step beyond 1, is cut after five."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = np.zeros(1, np.float32), 0
        return self.place, {}

    def step(self, action):
        self.place, self.steps = self.place + action, self.steps + 1
        ends = bool(abs(self.place[0]) > 1)
        return self.place, float(self.place[0]), ends, self.steps >= HORIZON, {}


def test_its_steps_are_those_of_stable_baselines3s_own():
    mine = StableBaselinesVecEnv(SyncVectorEnv([Walk] * 3, autoreset_mode=AutoresetMode.SAME_STEP))
    own = DummyVecEnv([lambda: Monitor(Walk())] * 3)
    assert np.array_equal(mine.reset(), own.reset())
    generator, ends = np.random.default_rng(0), set()
    for _ in range(40):
        actions = generator.uniform(-1, 1, (3, 1)).astype(np.float32)
        (*arrays, infos), (*expected, own_infos) = mine.step(actions), own.step(actions)
        for one, two in zip(arrays, expected, strict=True):
            assert one.dtype == two.dtype and np.array_equal(one, two)
        for one, two in zip(infos, own_infos, strict=True):
            assert ("terminal_observation" in one) == ("terminal_observation" in two)
            if "terminal_observation" in one:
                assert np.array_equal(one["terminal_observation"], two["terminal_observation"])
                assert one["TimeLimit.truncated"] == two["TimeLimit.truncated"]
                assert one["episode"]["r"] == pytest.approx(two["episode"]["r"], abs=1e-5)
                assert one["episode"]["l"] == two["episode"]["l"]
                ends.add(one["TimeLimit.truncated"])
    assert ends == {True, False}


def test_another_autoreset_mode_is_refused():
    with refused("autoreset_mode", AutoresetMode.NEXT_STEP):
        StableBaselinesVecEnv(SyncVectorEnv([Walk]))


def test_sac_of_stable_baselines3_trains_on_metaworld(capsys):
    made = make_vec(tasks=["reach-v3", "drawer-close-v3"], workers=0, horizon=20)
    envs = VecNormalize(StableBaselinesVecEnv(made))
    agent = SAC("MlpPolicy", envs, seed=4, learning_starts=20, batch_size=8, verbose=1)
    before = [parameter.clone() for parameter in agent.actor.parameters()]
    agent.learn(120, log_interval=1)
    assert any((a != b).any() for a, b in zip(before, agent.actor.parameters(), strict=True))
    assert made.seed == 4  # `seed=` reaches the simulators
    assert "success_rate" in capsys.readouterr().out
    envs.close()
