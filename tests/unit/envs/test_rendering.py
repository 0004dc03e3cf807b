"""Films of the right shape and the right way up, where OpenGL works; one sentence where it does
not.
"""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
from mtrl_fairgrad.envs.metaworld import MetaworldSuite
from mtrl_fairgrad.envs.rendering import RenderingError, record_episode
try:
    suite = MetaworldSuite(tasks=("reach-v3", "drawer-close-v3"), horizon=2)
    film = record_episode(suite, "drawer-close-v3", 0, lambda obs: np.zeros(4, np.float32), 3)
except RenderingError as error:
    print("refused:", error)
else:
    drawn = film.frames
    darker = drawn[0, :100].std() < drawn[0, 200:400].std()
    print("film", drawn.shape, drawn.dtype, darker, film.success)
"""


def run(backend):
    environment = {**os.environ, "MUJOCO_GL": backend}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120
    )
    return found.stdout.strip().splitlines()[-1] if found.stdout.strip() else found.stderr


def test_a_film_shows_the_table_below_the_empty_wall():
    found = run("osmesa")
    if not found.startswith("film"):
        pytest.skip("no software OpenGL here")
    assert found == "film (3, 480, 480, 3) uint8 True False"


def test_without_opengl_the_fix_is_named():
    found = run("glfw")
    if found.startswith("film"):
        pytest.skip("this machine has a display")
    assert found.startswith("refused: rendering does not work") and "MUJOCO_GL=egl" in found


SAME = """
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from mtrl_fairgrad.envs.metaworld_fast.environment import fast_environment
from mtrl_fairgrad.envs.metaworld import DRAWING, official_goals
kinds = ALL_V3_ENVIRONMENTS["door-open-v3"], fast_environment("door-open-v3")
pair = [kind(**DRAWING) for kind in kinds]
goals = official_goals(pair[0], "door-open-v3", 0)
actions = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)
films = [[], []]
for each, film in zip(pair, films):
    for goal in (0, 1, 0):
        each.set_task(goals[goal])
        each.reset()
        for action in actions:
            each.step(action)
    each.reset()
    film.append(each.render())
    each.step(actions[0])
    film.append(each.render())
    each.close()
print("film", np.array_equal(*films), np.ptp(films[0]) > 100, len(pair[1]._resets._entries))
"""


def test_fast_environments_look_like_the_official_ones_also_after_a_remembered_reset():
    environment = {**os.environ, "MUJOCO_GL": "osmesa"}
    found = subprocess.run(
        [sys.executable, "-c", SAME], env=environment, capture_output=True, text=True, timeout=120
    )
    if "OpenGL" in found.stderr:
        pytest.skip("no software OpenGL here")
    assert found.stdout.strip() == "film True True 2", found.stderr
