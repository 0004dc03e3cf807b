"""Record the frames of one episode."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.non_finite import without_non_finite
from mtrl_fairgrad.envs.suite import SubEnvironment, Suite

_PROBE = """
import mujoco
renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8)
renderer.render()
renderer.close()
"""
_FIX = (
    "set MUJOCO_GL=egl with the system packages libegl1 and libgl1 installed, "
    "or MUJOCO_GL=osmesa with libosmesa6"
)


class RenderingError(RuntimeError):
    """Rendering does not work on this machine; the message says how to enable it."""


SIDE = 480
"""Side of a frame in pixels, where the environment lets it be chosen; drawn in 0.2 s by a CPU."""


class EpisodeVideo(NamedTuple):
    """Frames and outcome of one episode."""

    frames: NDArray[np.uint8]
    """uint8 [T, height, width, 3]; the first precedes the first step, the last follows the last."""
    success: bool
    """Whether any step was a success."""
    decided: int
    """Index of the first frame that shows the success; of the last frame without one."""


def find_gl_backend() -> str:
    """Return the MUJOCO_GL value to render with: the one that is set, else the first that works.

    Each backend is tried in a process of its own (0.5 s), since a broken OpenGL may crash the
    process.

    Raises:
        RenderingError: no backend works.
    """
    requested = os.environ.get("MUJOCO_GL", "").strip()
    failures = list[str]()
    usual = ("egl", "osmesa", "glfw") if sys.platform == "linux" else ("glfw",)
    for name in (requested,) if requested else usual:
        environment = {**os.environ, "MUJOCO_GL": name}
        try:
            command = [sys.executable, "-c", _PROBE]
            probe = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=60
            )
        except subprocess.TimeoutExpired:
            failures.append(f"{name}: no answer in 60 s")
            continue
        if probe.returncode == 0:
            return name
        # Take the first error: later ones come from the renderer's clean-up.
        message = re.search(r"^[\w.]*Error: .+", probe.stderr, re.MULTILINE)
        failures.append(f"{name}: {message[0] if message else f'exit code {probe.returncode}'}")
    raise RenderingError(f"rendering does not work here ({'; '.join(failures)}): {_FIX}.")


def first_frame(suite: Suite, task: str, seed: int) -> NDArray[np.uint8]:
    """Return the first frame of an episode, uint8 [height, width, 3].

    Raises:
        RenderingError: OpenGL does not work, or the task does not support rendering.
    """
    played = None
    try:
        played = _begin(suite, task, seed, int(suite.goals(seed, task)[0]), SIDE)
        return _first_frame(played)
    finally:
        if played is not None:
            played.environment.close()


def record_episode(
    suite: Suite,
    task: str,
    seed: int,
    policy: Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]],
    goal: int,
    side: int | None = None,
    every: int = 1,
) -> EpisodeVideo:
    """Record one episode; it ends by itself or one second after its first success.

    Args:
        suite: the tasks.
        task: name of one of them.
        seed: the run's seed.
        policy: maps an observation [O] to an action [A].
        goal: goal of (seed, task) to play.
        side: side of the frames in pixels, where it can be chosen; `SIDE` by default.
        every: steps between two frames; the last step has one, too.

    Raises:
        RenderingError: OpenGL does not work, or the task does not support rendering.
    """
    played: SubEnvironment | None = None
    try:
        played = _begin(suite, task, seed, goal, side or SIDE)
        frames = [_first_frame(played)]
        left, ended, step, decided = None, False, 0, None
        while not ended and left != 0:
            action = np.asarray(policy(played.observation.copy()), np.float32)
            transition = played.step(without_non_finite(action[None])[0])
            step += 1
            ended = transition.terminated or transition.truncated
            if left is not None:
                left -= 1
            elif transition.success:
                left, decided = played.steps_per_second, -(-step // every)
            if step % every == 0 or ended or left == 0:
                frames.append(_render(played))
        last = len(frames) - 1
        return EpisodeVideo(
            np.stack(frames), played.succeeded, last if decided is None else min(decided, last)
        )
    finally:
        if played is not None:
            played.environment.close()


def _begin(suite: Suite, task: str, seed: int, goal: int, side: int) -> SubEnvironment:
    """Make a task's environment with pictures and start an episode."""
    try:
        played = suite.make(task, seed, suite.tasks.index(task), "eval", drawing=side)
        played.play([goal])
    except Exception as error:  # OpenGL bindings and environments raise many types
        raise RenderingError(_reason(task, error)) from error
    return played


def _first_frame(played: SubEnvironment) -> NDArray[np.uint8]:
    try:
        return _render(played)
    except Exception as error:
        raise RenderingError(_reason(played.task, error)) from error


def _reason(task: str, error: Exception) -> str:
    """Describe why there is no picture: the environment draws none, or this machine cannot."""
    if isinstance(error, (NotImplementedError, _NoFrameError)) or "render_mode" in str(error):
        return (
            f"the environment of {task} does not render rgb_array frames: leave it out with "
            "--video-tasks, or give it a method render."
        )
    return f"rendering does not work here ({type(error).__name__}: {error}): {_FIX}."


class _NoFrameError(TypeError):
    """What an environment rendered is no picture."""


def _render(played: SubEnvironment) -> NDArray[np.uint8]:
    frame = played.render()
    if np.ndim(frame) != 3:
        raise _NoFrameError("the task does not render rgb_array frames")
    return np.asarray(frame, np.uint8)
