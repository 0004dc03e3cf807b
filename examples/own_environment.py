"""Tasks of your own: two Gymnasium environments with the same spaces, trained together.

    python examples/own_environment.py              # half a minute

Anything registered with Gymnasium can be trained if observations and actions are boxes of equal
shapes. Name tasks `MODULE:ID`, so that simulator processes import the module, too. A step is a
success if its infos say so. Needs `pip install "mtrl-fairgrad[rl]"`.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import mtrl_fairgrad
from mtrl_fairgrad import Run


class Fly(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A drone with inertia flies to a place of its own in each episode, against the wind."""

    def __init__(self, wind: float = 0.0) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (6,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.wind = np.array([wind, 0.0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw where to fly; everything random comes from `np_random`, so that runs can resume."""
        super().reset(seed=seed)
        self.goal = self.np_random.uniform(-1, 1, 2)
        self.position, self.speed = np.zeros(2), np.zeros(2)
        return self._observation(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Fly for a tenth of a second."""
        self.speed = 0.8 * self.speed + 0.1 * (action + self.wind)
        self.position = self.position + self.speed
        distance = float(np.linalg.norm(self.goal - self.position))
        return self._observation(), -distance, False, False, {"success": distance < 0.15}

    def _observation(self) -> NDArray[np.float32]:
        return np.concatenate([self.position, self.speed, self.goal]).astype(np.float32)


for name, wind in (("Calm-v0", 0.0), ("Storm-v0", 0.6)):
    if name not in gymnasium.registry:  # this module is imported by name as well
        gymnasium.register(name, "own_environment:Fly", max_episode_steps=40, kwargs={"wind": wind})

OPTIONS = (
    "env=gymnasium",
    "env.tasks=[own_environment:Calm-v0,own_environment:Storm-v0]",
    "preset=quick",
    "agent.batch_size=32",
    "agent.warmup_steps=400",
    "eval.every=1000",
    "steps=3000",
)


def main(*options: str, folder: Path = Path("runs/own_environment")) -> Run:
    """Train with FairGrad; return the run."""
    return mtrl_fairgrad.train(*OPTIONS, f"run_dir={folder}", "resume=auto", *options)


if __name__ == "__main__":
    print(main().evaluations)
