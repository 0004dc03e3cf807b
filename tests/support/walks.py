"""A small environment with hidden state, registered with Gymnasium: `tests.support.walks:Walk-v0`
and others.
"""

import itertools
import os

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

_started = itertools.count()


class Walk(gymnasium.Env):
    """A walker is pushed along a line, with a velocity it cannot see; it falls beyond `edge`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(
        self,
        render_mode=None,
        goal=1.0,
        edge=2.0,
        numbers=2,
        informs=True,
        drifts=False,
        space=None,
        low=-2.0,
        high=4.0,
    ):
        self.render_mode = render_mode
        self.goal, self.edge, self.informs, self.drifts = goal, edge, informs, drifts
        self.observation_space = (
            Dict(x=Box(-1, 1)) if space == "dict" else Box(-np.inf, np.inf, (numbers,), np.float64)
        )
        self.action_space = (
            Discrete(2) if space == "discrete" else Box(low, high, (1, 1), np.float32)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.velocity = self.np_random.normal(0, 0.1), 0.0
        self.drift = 1e-9 * next(_started) if self.drifts else 0.0
        return self._observed(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.velocity += 0.05 * float(action[0, 0]) + 0.01 * self.np_random.normal() + self.drift
        self.place += self.velocity
        success = abs(self.place - self.goal) < 0.2
        return (
            self._observed(),
            -abs(self.place),
            abs(self.place) > self.edge,
            False,
            self._info(success),
        )

    def render(self):
        return np.full((8, 16, 3), int(100 + 20 * self.place), np.uint8)

    def _observed(self):
        return np.append(self.place, np.zeros(self.observation_space.shape[0] - 1))

    def _info(self, success):
        return {"is_success": np.float32(success)} if self.informs else {}


class Troublesome(Walk):
    """A walk whose simulator crashes when pushed hard to the right, and hangs when pushed hard to
    the left.
    """

    def step(self, action):
        if action[0, 0] == self.action_space.high[0, 0]:
            os._exit(3)
        while action[0, 0] == self.action_space.low[0, 0]:
            pass
        return super().step(action)


gymnasium.register("Walk-v0", "tests.support.walks:Walk", max_episode_steps=30)
gymnasium.register("Endless-v0", "tests.support.walks:Walk")
gymnasium.register(
    "Rated-v0", "tests.support.walks:Walk", max_episode_steps=20, reward_threshold=-5.0
)
gymnasium.register("Troublesome-v0", "tests.support.walks:Troublesome", max_episode_steps=5)
