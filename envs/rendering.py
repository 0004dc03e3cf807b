"""Frames of one episode, for films."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.metaworld import OBSERVATION_SIZE, Settings, official_goals

CAMERA = "corner2"
SIZE = 480
"""Frames are SIZE × SIZE pixels."""


class RenderingError(RuntimeError):
    """Nothing can be drawn on this machine; the message says how it could."""


def frames(
    task: str,
    seed: int,
    policy: Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]],
    goal: int,
    identity: int,
    settings: Settings,
) -> NDArray[np.uint8]:
    """The frames [T, SIZE, SIZE, 3] of one episode: `policy` maps an observation [O] to an action [4].

    The episode plays `goal` (0 to 49) of (seed, task), with `identity` as the task's place in the one-hot part,
    and ends one second after its first success, or at the horizon. RenderingError without a working OpenGL.
    """
    environment = _drawing_environment(task, settings.reward_version)
    try:
        environment.set_task(official_goals(environment, task, seed)[goal])
        observation, _ = environment.reset()
        one_hot = np.eye(settings.identities, dtype=np.float32)[identity] if settings.identities else []
        pictures, left = [environment.render()], settings.horizon
        while left > 0:
            action = policy(np.concatenate([observation[:OBSERVATION_SIZE], one_hot]).astype(np.float32))
            observation, _, _, _, info = environment.step(action)
            pictures.append(environment.render())
            left -= 1
            if info["success"] == 1.0:
                left = min(left, int(1 / environment.dt))
        # Metaworld's corner cameras hang upside down.
        return np.rot90(np.stack(pictures), k=2, axes=(1, 2)).copy()
    finally:
        environment.close()


def _drawing_environment(task: str, reward_version: str) -> Any:
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        environment: Any = ALL_V3_ENVIRONMENTS[task](
            render_mode="rgb_array",
            camera_name=CAMERA,
            width=SIZE,
            height=SIZE,
            reward_function_version=reward_version,
        )
        environment.mujoco_renderer.render("rgb_array")
    except Exception as error:  # the OpenGL bindings raise whatever they like
        raise RenderingError(
            f"nothing can be drawn here ({type(error).__name__}: {error}): set MUJOCO_GL=egl, or MUJOCO_GL=osmesa "
            "with the system package libosmesa6 installed."
        ) from error
    return environment
