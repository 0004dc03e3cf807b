from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from mtrl_fairgrad.analysis.report import figure_style as figures
from mtrl_fairgrad.analysis.report.figure_style import COLOURS, draw
from mtrl_fairgrad.report import report
from tests.support.fabricated_runs import COURSE, METHOD, TASKS, groups_of


def test_the_figure_shows_the_means_the_bands_and_every_task(make):
    [part] = draw(groups_of(make("a"), make("b", method={"name": "ls"}))).subfigs
    main_panel, *panels = part.axes
    assert [panel.get_title() for panel in panels] == TASKS
    np.testing.assert_allclose(
        main_panel.lines[0].get_xydata(), [[0, 0.1], [500, 0.7], [1000, 0.6]]
    )
    np.testing.assert_allclose(panels[1].lines[1].get_ydata(), [0.0, 0.5, 0.8])
    band = main_panel.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.0) and band[:, 1].max() == pytest.approx(0.8)
    assert all(panel.get_ylim() == (0, 1) for panel in part.axes)
    assert main_panel.get_xlabel() == "environment steps of each task"
    assert "success rate" in main_panel.get_ylabel()
    [legend] = part.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{METHOD}, 2 seeds", "ls, 2 seeds"]


def test_a_legend_of_many_options_lies_within_the_figure(make):
    wide = "ls (" + ", ".join(f"agent.option_{n}=value" for n in range(20)) + ")"
    figure = draw([replace(group, label=wide) for group in groups_of(make("a"))])
    [[legend]] = [part.legends for part in figure.subfigs]
    figure.canvas.draw()
    box = legend.get_window_extent()
    assert figure.bbox.xmin <= box.xmin and box.xmax <= figure.bbox.xmax
    assert " ".join(legend.get_texts()[0].get_text().split()) == f"{wide}, 2 seeds"


def test_one_seed_has_no_band_and_one_task_no_small_panels(make):
    [part] = draw(
        groups_of(make("a", {0: [[0.5]], 1000: [[1.0]]}, seeds=[0], tasks=["reach-v3"]))
    ).subfigs
    [panel] = part.axes
    assert len(panel.lines) == 1 and len(panel.collections) == 0


def test_the_picture_is_drawn_in_the_colours_of_its_groups(make, tmp_path):
    flat = {env_steps: [[0.9, 0.9], [0.9, 0.9]] for env_steps in COURSE}
    out = report([make("a"), make("b", flat, method={"name": "ls"})], out=tmp_path / "out")
    pixels = imread(out / "report.png")[..., :3]
    assert pixels.shape[1] == 1800
    drawn = [
        int((np.abs(pixels - to_rgb(colour)).max(axis=-1) < 0.02).sum()) for colour in COLOURS[:3]
    ]
    assert drawn[0] > 500 and drawn[1] > 500 and drawn[2] == 0


@pytest.mark.parametrize(
    ("steps", "text"),
    [(0, "0"), (500, "500"), (1500, "1.5k"), (20_000, "20k"), (2e6, "2M"), (2.5e6, "2.5M")],
)
def test_steps_are_written_short(steps, text):
    assert figures._short(steps) == text
