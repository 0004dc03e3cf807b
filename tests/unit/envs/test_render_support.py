"""Environments of Gymnasium that render no pictures are found before anything is played."""

import pytest

from mtrl_fairgrad.envs.gymnasium_suite import gymnasium_suite
from mtrl_fairgrad.envs.rendering import RenderingError, first_frame
from mtrl_fairgrad.evaluation.videos import check_rendering
from tests.support.errors import refused
from tests.support.tiny_runs import POINT_MASS_TASKS, composed

NEAR = POINT_MASS_TASKS[0]
BLIND = "tests.support.point_mass:Blind-v0"


def test_a_first_frame_is_a_picture():
    assert first_frame(gymnasium_suite([NEAR]), NEAR, 0).shape == (8, 16, 3)


@pytest.mark.parametrize("takes_mode", [False, True])
def test_an_environment_without_pictures_is_named_with_what_to_do(takes_mode):
    suite = gymnasium_suite([BLIND], [{"takes_mode": takes_mode}])
    [task] = suite.tasks
    with pytest.raises(RenderingError, match="does not render rgb_array frames") as caught:
        first_frame(suite, task, 0)
    assert task in str(caught.value) and "--video-tasks" in str(caught.value)


def test_a_video_of_such_an_environment_is_refused_unless_its_task_is_left_out():
    config = composed("env=gymnasium", f"env.tasks=[{NEAR},{BLIND}]")
    check_rendering(config, [NEAR], "egl")
    with refused("--video", BLIND):
        check_rendering(config, config.env.tasks, "egl")
    check_rendering(composed(), ["reach-v3"], "egl")  # all of Meta-World's render
