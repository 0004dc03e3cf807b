"""Pictures of episodes: `tasks.webp`, all tasks moving side by side, and a film strip of each task.

WebP is what browsers, GitHub and documentation sites show without a player. Pillow, which writes
it, comes with Matplotlib.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mtrl_fairgrad.analysis.report.figure_style import PANELS, shortened, shown

ANIMATION = "tasks.webp"
"""File name of the animation; film strips have the names of their tasks."""
TILE, LABEL, GAP = 144, 20, 4
"""Side of a task's picture in the animation, height of its name, and distance, in pixels."""
SIDE = 360
"""Side of the frames that are recorded for them, in pixels."""
Window = tuple[float, float, float]
"""Part of a frame that is shown: left and top edge and side, as shares of the largest square."""
WHOLE: Window = (0.0, 0.0, 1.0)
METAWORLD: Window = (0.22, 0.2, 0.56)
"""Where hand and objects move."""
EVERY, MILLISECONDS, HOLD = 4, 80, 1500
"""Steps between two frames, and the time that one is shown, the last one longer. Meta-World's time
is slowed to five eighths, as 80 steps are one second."""
STRIP, STRIP_FRAMES = 200, 6
"""Side of a film strip's frames in pixels, and their number."""
GROUND, INK = (28, 32, 36), (255, 255, 255)
QUALITY, MOVING_QUALITY = 75, 55
"""Of lossy WebP, 0 to 100, of film strips and of the animation."""


class Clip(NamedTuple):
    """The small frames of one task's episode."""

    task: str
    frames: list[Image.Image]
    """`TILE` × `TILE`, every `EVERY`-th step, and the last."""


def clip(task: str, frames: NDArray[np.uint8], every: int = EVERY, window: Window = WHOLE) -> Clip:
    """Shrink every `every`-th of an episode's frames `[T, height, width, 3]`, and the last one."""
    chosen = [*range(0, len(frames) - 1, every), len(frames) - 1]
    return Clip(task, [_tile(frames[n], TILE, window) for n in chosen])


def animation(clips: Sequence[Clip]) -> bytes:
    """Show clips side by side, each under its name, until the longest has ended.

    Returns:
        an animated WebP that repeats; a clip that has ended shows its last frame.
    """
    columns = min(len(clips), PANELS)
    rows = math.ceil(len(clips) / columns)
    size = columns * (TILE + GAP) + GAP, rows * (TILE + LABEL + GAP) + GAP
    places = [
        (GAP + k % columns * (TILE + GAP), GAP + k // columns * (TILE + LABEL + GAP))
        for k in range(len(clips))
    ]
    ground = Image.new("RGB", size, GROUND)
    text, font = ImageDraw.Draw(ground), ImageFont.load_default(12)
    for clip_, (x, y) in zip(clips, places, strict=True):
        name = shortened(shown(clip_.task.removesuffix("-v3")), 24)
        text.text((x + TILE / 2, y + TILE + LABEL / 2), name, INK, font, anchor="mm")
    pictures: list[Image.Image] = []
    for n in range(max(len(clip_.frames) for clip_ in clips)):
        picture = ground.copy()
        for clip_, place in zip(clips, places, strict=True):
            picture.paste(clip_.frames[min(n, len(clip_.frames) - 1)], place)
        pictures.append(picture)
    durations = [*[MILLISECONDS] * (len(pictures) - 1), HOLD]
    return _webp(
        pictures[0],
        MOVING_QUALITY,
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
    )


def strip(frames: NDArray[np.uint8], window: Window = WHOLE) -> bytes:
    """Place evenly spaced frames of an episode `[T, height, width, 3]` side by side, as WebP.

    The first and the last frame are among them; a frame is repeated in shorter episodes.
    """
    chosen = np.linspace(0, len(frames) - 1, STRIP_FRAMES).round().astype(int)
    picture = Image.new("RGB", (STRIP_FRAMES * (STRIP + GAP) - GAP, STRIP), GROUND)
    for n, frame in enumerate(chosen):
        picture.paste(_tile(frames[frame], STRIP, window), (n * (STRIP + GAP), 0))
    return _webp(picture, QUALITY)


def _tile(frame: NDArray[np.uint8], side: int, window: Window) -> Image.Image:
    """Cut the window of the largest square in the middle of a frame and scale it."""
    height, width, _ = frame.shape
    square = min(height, width)
    left, top, edge = (round(square * share) for share in window)
    left, top = left + (width - square) // 2, top + (height - square) // 2
    part = Image.fromarray(frame).crop((left, top, left + edge, top + edge))
    return part.resize((side, side), Image.Resampling.LANCZOS)


def _webp(picture: Image.Image, quality: int, **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, "WEBP", quality=quality, method=6, **options)
    return content.getvalue()
