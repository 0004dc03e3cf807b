"""Gymnasium vector environments for Stable-Baselines3; needs `pip install stable-baselines3`.

from stable_baselines3 import PPO
from mtrl_fairgrad import make_vec
from mtrl_fairgrad.integrations.stable_baselines3 import StableBaselinesVecEnv

PPO("MlpPolicy", StableBaselinesVecEnv(make_vec("MT10"))).learn(100_000)
"""

# pyright: reportMissingImports=false
# (Stable-Baselines3 is not part of the extra `rl`.)

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from mtrl_fairgrad.utils.validation import ConfigError


class StableBaselinesVecEnv(VecEnv):
    """A `VecEnv` over `make_vec`, or another vector environment that resets in the same step.

    The infos of a row's last step hold `terminal_observation`, `TimeLimit.truncated`, `episode`
    (`r`, `l`, `t`) and, where the environment reports `success_once`, `is_success`, so that
    Stable-Baselines3 logs `rollout/ep_rew_mean` and `rollout/success_rate`.

    Raises:
        ConfigError: the environment resets at another time than in the step that ends an episode.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"autoreset_mode={mode} is not supported: Stable-Baselines3 expects environments "
                "that reset in the step that ends an episode, which is SAME_STEP.",
                "autoreset_mode",
                mode,
            )
        self.envs = envs
        self._actions: NDArray[Any] | None = None
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, np.int64)
        self._started = time.perf_counter()
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Any:
        """Start new episodes, with the first seed of `seed` if that was called; return [N, O]."""
        observations, infos = self.envs.reset(seed=self._seeds[0])
        self.reset_infos = [_row(infos, row) for row in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0.0, 0
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions [N, A] for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all rows; return observations, rewards, dones, and a dictionary for each row."""
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        done = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        rows = [_row(infos, row) for row in range(self.num_envs)]
        for row in map(int, np.flatnonzero(done)):
            rows[row] = self._last(rows[row], bool(truncated[row] and not terminated[row]), row)
        self._returns[done], self._lengths[done] = 0.0, 0
        return observations, rewards.astype(np.float32), done, rows

    def _last(self, info: dict[str, Any], cut: bool, row: int) -> dict[str, Any]:
        """Return the infos of an episode's last step in the words of Stable-Baselines3."""
        final = info.pop("final_info", {})
        seconds = round(time.perf_counter() - self._started, 6)
        episode = {"r": float(self._returns[row]), "l": int(self._lengths[row]), "t": seconds}
        info |= final | {
            "terminal_observation": info.pop("final_obs"),
            "TimeLimit.truncated": cut,
            "episode": episode,
        }
        if "success_once" in final:
            info["is_success"] = bool(final["success_once"])
        return info

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the vector environment, once for each row."""
        value = getattr(self.envs, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: rows have no attributes of their own."""
        raise AttributeError(f"{attr_name} of single rows cannot be set: make new environments.")

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuse: rows have no methods of their own."""
        raise AttributeError(f"{method_name} of single rows cannot be called.")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Return False for each row: episodes are recorded here."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return no pictures."""
        return [None] * self.num_envs


def _row(infos: dict[str, Any], row: int) -> dict[str, Any]:
    """Return the infos of one row, those that its mask says it has."""
    return {
        name: _row(value, row) if isinstance(value, dict) else value[row]
        for name, value in infos.items()
        if not name.startswith("_") and infos[f"_{name}"][row]
    }
