"""Frames of one episode, for films."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.suite import SubEnvironment, Suite

_PROBE = """
import mujoco
renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8)
renderer.render()
renderer.close()
"""
_FIX = "set MUJOCO_GL=egl with the system packages libegl1 and libgl1 installed, or MUJOCO_GL=osmesa with libosmesa6"


class RenderingError(RuntimeError):
    """Nothing can be drawn on this machine; the message says how it could."""


class EpisodeVideo(NamedTuple):
    """One episode, drawn."""

    frames: NDArray[np.uint8]
    """[T, SIZE, SIZE, 3], the first before the first step."""
    success: bool
    """Whether any step succeeded."""


def find_gl_backend() -> str:
    """The word for MUJOCO_GL with which MuJoCo draws here: the one that is set, else the first that
    works.

    Each is tried in a process of its own, half a second, because a broken OpenGL may take its
    process with it. RenderingError when none draws.
    """
    asked = os.environ.get("MUJOCO_GL", "").strip()
    failures = list[str]()
    for name in (
        (asked,) if asked else ("egl", "osmesa", "glfw") if sys.platform == "linux" else ("glfw",)
    ):
        environment = {**os.environ, "MUJOCO_GL": name}
        try:
            command = [sys.executable, "-c", _PROBE]
            found = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=60
            )
        except subprocess.TimeoutExpired:
            failures.append(f"{name}: no answer in 60 s")
            continue
        if found.returncode == 0:
            return name
        # The first one: what comes after is the renderer's clean-up stumbling over the same.
        said = re.search(r"^[\w.]*Error: .+", found.stderr, re.MULTILINE)
        failures.append(f"{name}: {said[0] if said else f'exit code {found.returncode}'}")
    raise RenderingError(f"nothing can be drawn here ({'; '.join(failures)}): {_FIX}.")


def record_episode(
    suite: Suite,
    task: str,
    seed: int,
    policy: Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]],
    goal: int,
) -> EpisodeVideo:
    """The film of one episode: `policy` maps an observation [O] to an action [A].

    The episode plays `goal` of (seed, task), and ends by itself or one second after its first
    success. RenderingError without a working OpenGL, or where the task cannot be drawn.
    """
    played: SubEnvironment | None = None
    try:
        try:
            played = suite.make(task, seed, suite.tasks.index(task), "eval", drawing=True)
            played.play([goal])
            pictures = [_drawn(played)]
        except Exception as error:  # the OpenGL bindings raise whatever they like
            raise RenderingError(
                f"nothing can be drawn here ({type(error).__name__}: {error}): {_FIX}."
            ) from error
        left, ended = None, False
        while not ended and left != 0:
            found = played.step(np.asarray(policy(played.observation.copy()), np.float32))
            pictures.append(_drawn(played))
            ended = found.terminated or found.truncated
            left = (
                left - 1 if left is not None else played.steps_per_second if found.success else None
            )
        return EpisodeVideo(np.stack(pictures), played.succeeded)
    finally:
        if played is not None:
            played.environment.close()


def _drawn(played: SubEnvironment) -> NDArray[np.uint8]:
    picture = played.render()
    if np.ndim(picture) != 3:
        raise TypeError("the task has no rgb_array pictures")
    return np.asarray(picture, np.uint8)
