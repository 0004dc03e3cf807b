"""Recorded episodes: videos, `<task>-seed<seed>-goal<goal>.mp4`, with films.csv, and pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy, zeros

from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.utils.atomic_io import make_folders, write_atomic, writing_remedy
from mtrl_fairgrad.utils.clean_text import clean
from mtrl_fairgrad.utils.text_tables import csv_report

if TYPE_CHECKING:
    from mtrl_fairgrad.envs.rendering import EpisodeVideo

COLUMNS = ("file", "env_steps", "seed", "task", "goal", "success", "frames")
FRAMES_PER_SECOND = 40
"""Half of real time: a step is 12.5 ms."""


@dataclass(frozen=True)
class VideoSpec:
    """The episodes to record, one of each task, and what to make of them."""

    directory: Path | None
    """Existing folder of the videos; None for none."""
    pictures: Path | None
    """Existing folder of the animation and the film strips; None for none."""
    backend: str
    """OpenGL backend, from `check_video`."""
    seed: int
    """Index of the seed, 0 … S − 1."""
    tasks: Sequence[str]
    """Names of tasks of the run."""
    goal: int | None
    """Index of each task's goal; None for the first that an evaluation plays."""


def check_video(option: str, directory: Path, root: Path | None = None) -> str:
    """Make the folder of `option` and check that its files can be rendered and written.

    Args:
        option: `--video`, which needs imageio, or `--pictures`.
        directory: the folder.
        root: a folder below which none may be a link.

    Returns:
        a working OpenGL backend.

    Raises:
        ConfigError: imageio or OpenGL is missing, or the folder cannot be made.
    """
    from mtrl_fairgrad.envs.rendering import RenderingError, find_gl_backend

    if option == "--video":
        try:
            import imageio.v3  # noqa: F401
            import imageio_ffmpeg  # noqa: F401
        except ImportError:
            needed = 'pip install "mtrl-fairgrad[video]"'
            raise ConfigError(f"--video needs imageio: {needed}.") from None
    try:
        backend = find_gl_backend()
        make_folders(directory, root)
    except RenderingError as error:
        raise ConfigError(f"{option}: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"{option} {directory} cannot be made ({error.strerror}): "
            f"{writing_remedy(error, 'choose another folder')}."
        ) from error
    return backend


def check_rendering(
    config: Config, tasks: Sequence[str], backend: str, option: str = "--video"
) -> None:
    """Check that the environments of these tasks render pictures; all of Meta-World's do.

    Raises:
        ConfigError: one of them does not.
    """
    if config.env.suite != "gymnasium":
        return
    from mtrl_fairgrad.envs.rendering import RenderingError, first_frame
    from mtrl_fairgrad.training.factory import make_suite

    suite = make_suite(config, tuple(config.env.tasks or ()))
    for task in tasks:
        try:
            with _gl_backend(backend):
                first_frame(suite, task, config.seeds[0])
        except RenderingError as error:
            raise ConfigError(f"{option}: {error}", option, task) from None


def record_videos(
    config: Config, act: Callable[[Tensor], Tensor], env_steps: int, spec: VideoSpec
) -> list[Path]:
    """Record the episodes; write videos with their list, films.csv, and pictures.

    Args:
        config: configuration of the run, with its tasks.
        act: observations `[S, K, O]` → actions `[S, K, A]`.
        env_steps: env_steps of the policy's checkpoint, for films.csv.
        spec: episodes and folders.

    Returns:
        the paths of the videos and pictures.

    Raises:
        ConfigError: rendering or writing failed.
    """
    from mtrl_fairgrad.evaluation import pictures

    seed = config.seeds[spec.seed]
    rows: list[tuple[object, ...]] = []
    paths: list[Path] = []
    clips: list[pictures.Clip] = []
    for task, goal, episode in _episodes(config, act, spec):
        print(clean(f"recorded: {task} ({'success' if episode.success else 'no success'})"))
        name = re.sub(r"[/:]", "_", task)
        if spec.directory is not None:
            film = spec.directory / f"{name}-seed{seed}-goal{goal}.mp4"
            rows.append(
                (film.name, env_steps, seed, task, goal, int(episode.success), len(episode.frames))
            )
            paths.append(_written(film, _encoded(episode.frames)))
            _written(spec.directory / "films.csv", csv_report([COLUMNS, *rows]).encode())
        if spec.pictures is not None:
            window = pictures.WHOLE if config.env.suite == "gymnasium" else pictures.METAWORLD
            every = pictures.EVERY if spec.directory is not None else 1
            clips.append(pictures.clip(task, episode.frames, every, window))
            strip = pictures.strip(episode.frames[: episode.decided + 1], window)
            paths.append(_written(spec.pictures / f"{name}.webp", strip))
    if spec.pictures is not None:
        moving = pictures.animation(clips)
        paths.append(_written(spec.pictures / pictures.ANIMATION, moving))
    print(clean(f"written: {', '.join(map(str, paths))}"))
    return paths


def _episodes(
    config: Config, act: Callable[[Tensor], Tensor], spec: VideoSpec
) -> Iterator[tuple[str, int, EpisodeVideo]]:
    """Record and yield the episode of each task, with its goal."""
    from mtrl_fairgrad.envs.rendering import RenderingError, record_episode
    from mtrl_fairgrad.evaluation import pictures
    from mtrl_fairgrad.training.factory import make_suite

    # Pictures alone need fewer and smaller frames.
    coarser = {} if spec.directory else {"side": pictures.SIDE, "every": pictures.EVERY}
    tasks, seed = list(config.env.tasks or ()), config.seeds[spec.seed]
    suite = make_suite(config, tuple(tasks))
    for task in spec.tasks:
        policy = _policy_of_one_task(
            act, spec.seed, tasks.index(task), (len(config.seeds), len(tasks))
        )
        goal = int(suite.goals(seed, task)[0]) if spec.goal is None else spec.goal
        try:
            with _gl_backend(spec.backend):
                episode = record_episode(suite, task, seed, policy, goal, **coarser)
        except RenderingError as error:
            option = "--pictures" if spec.directory is None else "--video"
            raise ConfigError(f"{option}: {error}") from None
        yield task, goal, episode


def _encoded(frames: NDArray[np.uint8]) -> bytes:
    import imageio.v3 as iio

    return iio.imwrite("<bytes>", frames, extension=".mp4", fps=FRAMES_PER_SECOND, codec="libx264")


def _written(path: Path, content: bytes) -> Path:
    try:
        write_atomic(path, content)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or error}): "
            f"{writing_remedy(error, 'choose another folder')}."
        ) from error
    return path


def _policy_of_one_task(
    act: Callable[[Tensor], Tensor], seed: int, task: int, shape: tuple[int, int]
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Restrict `act` to one seed and task, `[O]` → `[A]`; all others observe zeros."""

    def policy(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        observations = zeros(*shape, len(observation))
        observations[seed, task] = from_numpy(observation)
        return act(observations)[seed, task].numpy()

    return policy


@contextmanager
def _gl_backend(backend: str) -> Iterator[None]:
    """Set MUJOCO_GL only while rendering, since simulators in other processes need no OpenGL.

    MuJoCo itself sets PYOPENGL_PLATFORM, which would force child processes to use the same backend.
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
