"""Animations and film strips of episodes."""

import io

import numpy as np
from PIL import Image

from mtrl_fairgrad.evaluation import pictures
from mtrl_fairgrad.evaluation.pictures import EVERY, GAP, LABEL, STRIP, STRIP_FRAMES, TILE


def episode(steps, level=0):
    """Frames `[steps + 1, 60, 80, 3]`, each brighter than the one before."""
    grey = np.minimum(np.arange(steps + 1) * 4 + level, 255)
    return np.broadcast_to(grey[:, None, None, None], (steps + 1, 60, 80, 3)).astype(np.uint8)


def opened(content):
    return Image.open(io.BytesIO(content))


def test_an_animation_shows_all_tasks_until_the_longest_has_ended():
    short, long = pictures.clip("short", episode(10, 100)), pictures.clip("long", episode(60))
    found = opened(pictures.animation([short, long]))
    assert found.size == (2 * (TILE + GAP) + GAP, TILE + LABEL + 2 * GAP)
    assert found.n_frames == len(long.frames) == len(range(0, 60, EVERY)) + 1
    levels = []
    for n in (0, found.n_frames - 1):
        found.seek(n)
        frame = np.asarray(found.convert("RGB")).astype(int)
        middle = GAP + TILE // 2
        levels.append([frame[middle, middle, 0], frame[middle, middle + TILE + GAP, 0]])
    assert np.abs(np.array(levels) - [[100, 0], [140, 240]]).max() <= 6  # lossy
    assert found.info["loop"] == 0, "it repeats"


def test_ten_tasks_stand_in_two_rows_under_their_names():
    clips = [pictures.clip(f"task-{n}-v3", episode(3)) for n in range(10)]
    found = opened(pictures.animation(clips))
    assert found.size == (5 * (TILE + GAP) + GAP, 2 * (TILE + LABEL + GAP) + GAP)
    frame = np.asarray(found.convert("RGB"))
    for row in range(2):
        names = frame[GAP + TILE + row * (TILE + LABEL + GAP) :][:LABEL]
        assert [tile.max() > 200 for tile in np.array_split(names, 5, axis=1)] == [True] * 5


def test_a_film_strip_goes_from_the_first_frame_to_the_last():
    for steps in (60, 2):
        found = np.asarray(opened(pictures.strip(episode(steps))).convert("RGB")).astype(int)
        assert found.shape == (STRIP, STRIP_FRAMES * (STRIP + GAP) - GAP, 3)
        levels = found[STRIP // 2, STRIP // 2 :: STRIP + GAP, 0]
        assert np.abs(levels - 4 * np.linspace(0, steps, STRIP_FRAMES).round()).max() <= 6


def test_a_frame_that_is_no_square_loses_its_sides_and_is_not_stretched():
    frames = np.zeros((2, 60, 80, 3), np.uint8)
    frames[:, :, :10] = frames[:, :, -10:] = 255
    [first, _] = pictures.clip("a", frames).frames
    assert np.asarray(first).max() < 30


def test_a_name_from_a_run_folder_is_shortened():
    clips = [pictures.clip("$x$ \x1b[2J" + "long " * 50, episode(2))]
    assert opened(pictures.animation(clips)).size[0] == TILE + 2 * GAP
