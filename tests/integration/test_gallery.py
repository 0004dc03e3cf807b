"""The gallery shows every task, with the numbers of the policy that plays it."""

import json
import re

import pytest
from PIL import Image

from mtrl_fairgrad.envs.task_names import MT10
from mtrl_fairgrad.evaluation import pictures
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "gallery.md").read_text()
PICTURES = ROOT / "docs" / "assets" / "mt10"
[POLICY] = re.findall(r"^POLICY := (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)
RESULT = json.loads((ROOT / POLICY).read_text())["result"]


def test_the_tasks_have_a_chapter_each_in_the_order_of_mt10():
    chapters = re.findall(r"^## (.*)$", PAGE, flags=re.M)
    assert chapters[:-1] == [task.removesuffix("-v3") for task in MT10]


@pytest.mark.parametrize("task", MT10)
def test_each_chapter_has_its_film_strip_and_what_the_policy_reached(task):
    chapter = PAGE.partition(f"\n## {task.removesuffix('-v3')}\n")[2].partition("\n## ")[0]
    assert f"](assets/mt10/{task}.webp)" in chapter
    width, height = Image.open(PICTURES / f"{task}.webp").size
    assert height == pictures.STRIP and width > 5 * height
    reached = round(RESULT["success"][task] * RESULT["goals"])
    assert f"**{reached} of {RESULT['goals']}.**" in chapter


def test_the_animation_moves_and_is_small_enough_for_a_readme():
    path = PICTURES / pictures.ANIMATION
    assert Image.open(path).n_frames > 20
    assert path.stat().st_size < 500e3  # CONTRIBUTING.md
    assert sum(each.stat().st_size for each in PICTURES.iterdir()) < 1e6
