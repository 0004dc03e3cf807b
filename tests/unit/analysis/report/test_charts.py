"""Panels: what they show, and what is left out."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mtrl_fairgrad.analysis.report import charts
from mtrl_fairgrad.analysis.report.figure_files import as_pdf, as_svg
from mtrl_fairgrad.analysis.report.figure_style import COLOURS, draw
from tests.support.fabricated_runs import COURSE, METHOD, TASKS, blocks_of_runs, log

LS = {"name": "ls"}


def painted(panel):
    axes = Figure().add_subplot()
    panel.paint(axes)
    return axes


def test_few_curves_are_labelled_at_their_ends_by_what_tells_them_apart(make):
    flat = {env_steps: [[0.6, 0.6]] * 2 for env_steps in COURSE}
    [block] = blocks_of_runs(make("a"), make("b", flat, method=LS))
    axes = painted(charts.curve(block))
    labels = {text.get_text(): text for text in axes.texts}
    assert list(labels) == ["fairgrad", "ls"]  # their whole labels would be too long
    assert labels["ls"].get_color() == axes.lines[1].get_color()
    heights = [text.xy[1] for text in axes.texts]
    assert abs(heights[0] - heights[1]) >= 0.07  # both curves end at .6
    [alike] = blocks_of_runs(
        make("c"), make("d", method={"name": "fairgrad", "alpha": 1.0, "solver": "sgd"})
    )
    assert charts.short_labels(alike) is None and not painted(charts.curve(alike)).texts
    [many] = blocks_of_runs(*(make(f"m{n}", method={"name": f"m{n}"}) for n in range(5)))
    assert charts.short_labels(many) is None


@pytest.mark.parametrize(
    "ends", [[0.5], [1, 1, 1, 1], [0, 0, 0], [0.2, 0.9, 0.21], [0.99, 0.1, 1.0]]
)
def test_labels_keep_their_order_and_their_distance_inside_the_axes(ends):
    found = np.array(list(charts._apart(ends)))
    order = np.argsort(ends, kind="stable")
    assert (np.diff(found[order]) >= 0.0749).all() and found.max() <= 1 + 1e-9
    lonely = [
        n
        for n, end in enumerate(ends)
        if all(abs(end - other) > 0.2 for m, other in enumerate(ends) if m != n)
    ]
    assert [found[n] for n in lonely] == [
        ends[n] for n in lonely
    ]  # what collides with nothing stays where it is


def test_the_interval_panel_shows_both_numbers_and_their_intervals(make):
    [block] = blocks_of_runs(make("a"), make("b", {1000: [[0.5, 0.5]]}, seeds=[0], method=LS))
    axes = painted(charts.intervals(block))
    values = [line.get_xdata() for line in axes.lines]
    [group, _] = block.groups
    np.testing.assert_allclose(values[0], [group.final_iqm.low, group.final_iqm.high])
    np.testing.assert_allclose(values[1], [group.final_iqm.value])
    np.testing.assert_allclose(values[2], [group.final_interval.low, group.final_interval.high])
    assert len(values) == 6  # one seed: points without intervals
    assert [text.get_text() for text in axes.texts] == [METHOD, "ls"]
    [single] = blocks_of_runs(make("c", {1000: [[0.5, 0.5]]}, seeds=[0]))
    assert charts.intervals(single) is None


def test_the_heat_map_has_a_number_in_every_cell(make):
    [block] = blocks_of_runs(make("a"), make("b", method=LS))
    axes = painted(charts.heat_map(block))
    assert [text.get_text() for text in axes.texts] == ["0.40", "0.40", "0.80", "0.80"]
    assert [label.get_text() for label in axes.get_yticklabels()] == TASKS
    assert axes.texts[0].get_color() != axes.texts[2].get_color()  # dark on pale, white on dark


def test_conflict_panels_are_those_that_something_was_logged_for(make):
    path, silent = make("a"), make("b", method=LS)
    assert charts.conflicts(blocks_of_runs(path)[0]) == []
    log(path, {"actor/residual": {0: 0.0, 500: 1e-3}, "critic/cosine/mean": {0: 0.3, 500: -0.2}})
    [block] = blocks_of_runs(path, silent)
    cosine, residual = charts.conflicts(block)
    assert cosine.title == "critic: mean cosine between task gradients"
    axes = painted(residual)
    assert axes.get_yscale() == "log" and axes.get_ylim() == pytest.approx((1e-3, 1e-2))
    assert painted(cosine).lines[0].get_ydata() == pytest.approx([0.3, -0.2])
    assert painted(cosine).get_xlim() == (0, 1000)


def test_what_is_logged_by_task_is_shown_as_one_curve(make):
    path = make("a")
    first, second = TASKS
    log(
        path,
        {
            f"critic/task_gradient_norm/{first}": {0: 2.0, 500: 0.0},
            f"critic/task_gradient_norm/{second}": {0: 0.5, 500: 3.0},
            f"critic/signal/{first}": {0: 0.25, 500: -0.1},
            f"critic/signal/{second}": {0: 0.75, 500: 0.3},
            f"critic/worsened/{first}": {0: 0.0, 500: 0.4},
            f"critic/worsened/{second}": {0: 1.0, 500: 0.0},
            f"actor/signal/{first}": {0: 0.5},  # not of every task
            "critic/min_progress": {0: -1.0, 500: 1.0},  # `worsened` says more
        },
    )
    curves = {
        panel.title: painted(panel).lines[0].get_ydata()
        for panel in charts.conflicts(blocks_of_runs(path)[0])
    }
    expected = {
        "critic: longest over shortest task gradient": [4.0],
        "critic: signal in task gradients": [0.5, 0.1],
        "critic: share of tasks made worse": [0.5, 0.2],
    }
    assert curves.keys() == expected.keys()
    for title, values in expected.items():
        shown = curves[title][np.isfinite(curves[title])]
        assert shown == pytest.approx(values)


def test_a_residual_that_is_always_zero_has_no_logarithm(make):
    path = make("a")
    log(path, {"actor/residual": {0: 0.0, 500: 0.0}})
    [panel] = charts.conflicts(blocks_of_runs(path)[0])
    assert painted(panel).get_yscale() == "linear"


def test_weights_are_blue_above_their_mean_vermilion_below_and_clear_at_it():
    found = charts.weight_colours(
        np.array([[1.0, 8.0, 64.0], [1 / 8, 0.0, -3.0], [2.0, np.nan, 0.5]])
    )
    np.testing.assert_allclose(found[..., 3], [[0, 1, 1], [1, 1, 1], [1 / 3, 1, 1 / 3]])
    np.testing.assert_allclose(found[0, 1, :3], to_rgb(COLOURS[0]))
    np.testing.assert_allclose(found[1, 0, :3], to_rgb(COLOURS[1]))


def test_weights_have_a_panel_each_unless_even(make):
    path, even = make("a"), make("b", method=LS)
    log(
        path,
        {"actor/weights/reach-v3": {0: 1.0, 9: 2.0}, "actor/weights/push-v3": {0: 1.0, 9: 1.0}},
    )
    log(
        even,
        {"actor/weights/reach-v3": {0: 0.5, 9: 0.5}, "actor/weights/push-v3": {0: 0.5, 9: 0.49}},
    )
    panels, names = charts.weights(blocks_of_runs(path, even)[0])
    assert [panel.title for panel in panels] == [f"actor: {METHOD}"] and names == ["actor: ls"]
    assert [label.get_text() for label in painted(panels[0]).get_yticklabels()] == TASKS


def test_an_svg_has_text_a_clear_background_and_does_not_change(make):
    [block] = blocks_of_runs(make("a"), make("b", method=LS))
    svg = as_svg(charts.curve(block)).decode()
    assert 'viewBox="0 0 331.2 208.8"' in svg and ">success rate</text>" in svg
    assert COLOURS[0].lower() in svg and COLOURS[1].lower() in svg and "#ffffff" not in svg
    assert as_svg(charts.curve(block)).decode() == svg
    assert "<metadata" not in svg or "<dc:date" not in svg


def test_a_dollar_in_a_name_is_a_dollar(make):
    [block] = blocks_of_runs(
        make("a", method={"name": r"$\oops$"}), make("b", method={"name": "$x$"})
    )
    svg = as_svg(charts.curve(block)).decode()
    assert r">$\oops$</text>" in svg and ">$x$</text>" in svg
    draw(block.groups).savefig(io.BytesIO())


def test_a_pdf_holds_the_protocol_and_does_not_change_from_one_time_to_the_next(make):
    [block] = blocks_of_runs(make("a"))
    legend = [(group.label, block.styles[group.label]) for group in block.groups]
    first, second = (as_pdf(charts.task_curves(block), block.protocol, legend, 5) for _ in range(2))
    assert first == second and first.startswith(b"%PDF")


@pytest.mark.parametrize("options", [1, 20])
def test_a_legend_lies_within_the_page(options, make, monkeypatch):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda *a, **b: drawn.append(a[0]) or save(*a, **b))
    [block] = blocks_of_runs(make("a"))
    wide = "ls (" + ", ".join(f"agent.option_{n}=value" for n in range(options)) + ")"
    legend = [(f"{wide} {n}", block.styles[block.groups[0].label]) for n in range(5)]
    as_pdf([charts.curve(block)], block.protocol, legend, 1)
    [[box]] = [[each.get_window_extent() for each in figure.legends] for figure in drawn]
    assert drawn[0].bbox.xmin <= box.xmin and box.xmax <= drawn[0].bbox.xmax
    assert [" ".join(each.get_text().split()) for each in drawn[0].legends[0].get_texts()] == [
        label for label, _ in legend
    ]
