"""A point mass on a line: a Gymnasium environment without MuJoCo, for tests of run mechanics.

Importing this module registers it, so `tests.support.point_mass:Near-v0` works as a task's id in
worker processes and subprocesses, too.
"""

import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

_resets = itertools.count()


class PointMass(gymnasium.Env):
    """A mass is pushed along a line; its velocity is hidden, and it falls beyond `edge`.

    Args:
        goal: where a step is a success, within 0.2.
        edge: distance from 0 at which the episode terminates.
        numbers: length of an observation: the position and zeros.
        informs: whether infos hold `is_success`.
        drifts: whether episodes depend on how many came before, so that they do not repeat.
        space: "dict" or "discrete" for an observation or action space that is not supported.
        shape: shape of the observations, if it is not that of their space.
        blinded_at: step from which on observations are NaN.
        unpaid_at: step from which on rewards are NaN.
        low, high: bounds of the action, whose shape is [1, 1].
    """

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
        shape=None,
        blinded_at=None,
        unpaid_at=None,
        low=-2.0,
        high=4.0,
    ):
        self.render_mode = render_mode
        self.goal, self.edge, self.informs, self.drifts = goal, edge, informs, drifts
        self.shape, self.blinded_at, self.unpaid_at = shape, blinded_at, unpaid_at
        self.observation_space = (
            Dict(x=Box(-1, 1)) if space == "dict" else Box(-np.inf, np.inf, (numbers,), np.float64)
        )
        self.action_space = (
            Discrete(2) if space == "discrete" else Box(low, high, (1, 1), np.float32)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.velocity = self.np_random.normal(0, 0.1), 0.0
        self.steps = 0
        self.drift = 1e-9 * next(_resets) if self.drifts else 0.0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        self.velocity += 0.05 * float(action[0, 0]) + 0.01 * self.np_random.normal() + self.drift
        self.position += self.velocity
        success = abs(self.position - self.goal) < 0.2
        terminated = abs(self.position) > self.edge
        reward = -abs(self.position) if before(self.steps, self.unpaid_at) else np.nan
        return self._observation(), reward, terminated, False, self._info(success)

    def render(self):
        return np.full((8, 16, 3), int(100 + 20 * self.position), np.uint8)

    def _observation(self):
        position = self.position if before(self.steps, self.blinded_at) else np.nan
        observation = np.append(position, np.zeros(self.observation_space.shape[0] - 1))
        return observation if self.shape is None else np.resize(observation, self.shape)

    def _info(self, success):
        return {"is_success": np.float32(success)} if self.informs else {}


def before(step, other):
    return other is None or step < other


class Unreliable(PointMass):
    """Its process exits when pushed hard to the right and hangs when pushed hard to the left."""

    def step(self, action):
        if action[0, 0] == self.action_space.high[0, 0]:
            os._exit(3)
        while action[0, 0] == self.action_space.low[0, 0]:
            pass
        return super().step(action)


class Mortal(PointMass):
    """In a worker it dies while it is made, as often as the file DEATHS has lines."""

    def __init__(self, **options):
        deaths = Path(os.environ.get("DEATHS", ""))
        if multiprocessing.parent_process() is not None and deaths.is_file():
            left = deaths.read_text().splitlines()
            if left:
                deaths.write_text("\n".join(left[1:]))
                os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(**options)


class Slow(PointMass):
    """Its steps take a millisecond of processor time."""

    def step(self, action):
        started = time.thread_time()
        while time.thread_time() < started + 0.001:
            pass
        return super().step(action)


class Blind(gymnasium.Env):
    """A point mass without pictures: it neither takes `render_mode` nor has a method `render`."""

    def __init__(self, takes_mode=False, **options):
        if "render_mode" in options and not takes_mode:
            raise TypeError("Blind.__init__() got an unexpected keyword argument 'render_mode'")
        self.render_mode = options.pop("render_mode", None)
        self._mass = PointMass(**options)
        self.observation_space = self._mass.observation_space
        self.action_space = self._mass.action_space
        self.reset, self.step = self._mass.reset, self._mass.step


def _register(name, entry_point="PointMass", **options):
    gymnasium.register(f"{name}-v0", f"tests.support.point_mass:{entry_point}", **options)


# Episodes of 20 steps, always: the mass cannot reach the edge.
_register("Near", max_episode_steps=20, kwargs={"goal": 0.5, "edge": 1000.0})
_register("Far", max_episode_steps=20, kwargs={"goal": 5.0, "edge": 1000.0})
_register("PointMass", max_episode_steps=30)
_register("Endless")
_register("Rated", max_episode_steps=20, reward_threshold=-5.0)
_register("Unreliable", "Unreliable", max_episode_steps=5)
_register("Mortal", "Mortal", max_episode_steps=20, kwargs={"edge": 1000.0})
_register("Slow", "Slow", max_episode_steps=20, kwargs={"edge": 1000.0})
_register("Blind", "Blind", max_episode_steps=20)
