"""Films of single episodes: `<task>-seed<seed>-goal<goal>.mp4`, and films.csv, which says what the
latest show.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy, zeros

from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.utils.atomic_io import write_atomic
from mtrl_fairgrad.utils.text_tables import csv_text

COLUMNS = ("file", "env_steps", "seed", "task", "goal", "success", "frames")
FRAMES_PER_SECOND = 40
"""Half as fast as life: a step is 12.5 ms."""


@dataclass(frozen=True)
class Shooting:
    """Which episodes are filmed: one of each task."""

    directory: Path
    """Exists."""
    backend: str
    """What `check_video` returned."""
    seed: int
    """Place of the seed, 0 … S − 1."""
    tasks: Sequence[str]
    """Some of the run's."""
    goal: int | None
    """Which of each task's; None: the first that an evaluation plays."""


def check_video(directory: Path) -> str:
    """Make the folder of the films, and refuse to promise one that cannot be made.

    Returns:
        The OpenGL backend that works here.

    Raises:
        ConfigError: imageio or OpenGL is missing, or the folder cannot be made.
    """
    from mtrl_fairgrad.envs.rendering import RenderingError, find_gl_backend

    try:
        import imageio.v3  # noqa: F401
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise ConfigError('--video needs imageio: pip install "mtrl-fairgrad[video]".') from None
    try:
        backend = find_gl_backend()
        directory.mkdir(parents=True, exist_ok=True)
    except RenderingError as error:
        raise ConfigError(f"--video: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"--video {directory} cannot be made ({error.strerror}): choose another folder."
        ) from None
    return backend


def film(
    config: Config, act: Callable[[Tensor], Tensor], env_steps: int, shooting: Shooting
) -> list[Path]:
    """Film the episodes and write films.csv; returns the films' paths.

    Args:
        config: of the run, with its tasks.
        act: observations `[S, K, O]` → actions `[S, K, A]`.
        env_steps: of the policy, for the record.
        shooting: what and where.

    Raises:
        ConfigError: drawing or writing failed.
    """
    import imageio.v3 as iio

    from mtrl_fairgrad.envs.rendering import RenderingError, record_episode
    from mtrl_fairgrad.training.factory import make_suite

    every, number = list(config.env.tasks or ()), config.seeds[shooting.seed]
    suite = make_suite(config, tuple(every))
    rows, paths = list[tuple[object, ...]](), list[Path]()
    for task in shooting.tasks:
        k = every.index(task)
        policy = _of_one_task(act, shooting.seed, k, (len(config.seeds), len(every)))
        goal = int(suite.goals(number, task)[0]) if shooting.goal is None else shooting.goal
        path = shooting.directory / f"{re.sub(r'[/:]', '_', task)}-seed{number}-goal{goal}.mp4"
        try:
            with _drawing_with(shooting.backend):
                drawn = record_episode(suite, task, number, policy, goal)
            iio.imwrite(path, drawn.frames, fps=FRAMES_PER_SECOND, codec="libx264")
            rows.append(
                (path.name, env_steps, number, task, goal, int(drawn.success), len(drawn.frames))
            )
            paths.append(path)
            write_atomic(shooting.directory / "films.csv", csv_text([COLUMNS, *rows]).encode())
        except RenderingError as error:
            raise ConfigError(f"--video: {error}") from None
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written ({error.strerror or error}): choose another folder."
            ) from None
        print(f"filmed: {path} ({'success' if drawn.success else 'no success'})")
    return paths


def _of_one_task(
    act: Callable[[Tensor], Tensor], seed: int, task: int, shape: tuple[int, int]
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """One observation `[O]` → action `[A]`, asked in the place of one seed and task while all
    others see zeros.
    """

    def policy(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        every = zeros(*shape, len(observation))
        every[seed, task] = from_numpy(observation)
        return act(every)[seed, task].cpu().numpy()

    return policy


@contextmanager
def _drawing_with(backend: str) -> Iterator[None]:
    """MUJOCO_GL for the time of drawing only: simulators in other processes would load OpenGL for
    nothing.

    MuJoCo itself sets PYOPENGL_PLATFORM, which would forbid our children any other backend.
    """
    before = {name: os.environ.get(name) for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    os.environ["MUJOCO_GL"] = backend
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
