"""The toy problem of Figure 1: where trajectories end, and what its options change."""

import pytest
import torch

from mtrl_fairgrad.supervised.benchmarks import toy
from mtrl_fairgrad.supervised.benchmarks.toy import (
    CHECK_EVERY,
    DIVERGED,
    STALLED,
    UNFINISHED,
    ToyConfig,
    descend,
)
from mtrl_fairgrad.supervised.benchmarks.toy_problem import (
    STARTS,
    distance_from_front,
    gradients,
    losses,
    pareto_set,
)
from mtrl_fairgrad.weighting import make_method


def test_the_front_is_where_both_gradients_oppose_each_other():
    x1 = torch.linspace(-6.5, 6.5, 14, dtype=torch.float64)
    points = torch.stack([x1, -8.355 - 0.079 * (x1 / 7).square()], -1)
    assert (distance_from_front(points) < 1e-9).all()
    units = torch.nn.functional.normalize(gradients(points), dim=-1)
    shortest = (make_method("mgda")(units @ units.mT).weights.unsqueeze(-2) @ units).norm(dim=-1)
    assert (shortest < 0.03).all()
    assert (distance_from_front(points + 1.0) > 0.9).all()


def test_both_formulas():
    point = torch.tensor([0.0, -8.0], dtype=torch.float64)
    # Below the axis only the parabolas count: 49/10 − 20 each, plus 0.1·(−x2 − 8)²/10 or 0.1·(−x1 −
    # 8)²/10.
    lower = torch.tanh(torch.tensor(4.0, dtype=torch.float64))
    torch.testing.assert_close(
        losses(point), lower * torch.tensor([-1.51, -15.1], dtype=torch.float64)
    )
    printed = lower * (-15.1 + 0.64) * torch.tensor([0.1, 1.0], dtype=torch.float64)
    torch.testing.assert_close(losses(point, "paper"), printed)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"formula": "book"}, "formula=book"),
        ({"alphas": [-1]}, "alpha=-1"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_bad_options_are_refused(options, part):
    with pytest.raises(ValueError, match=part):
        ToyConfig(**options)


def test_a_start_that_cannot_arrive_ends_before_the_steps_run_out(monkeypatch):
    """Across a valley `|x1|`, every step jumps over the floor and none leads along it."""

    def across(points, formula):
        rows = torch.zeros(len(points), 2, 2, dtype=points.dtype)
        rows[..., 0] = points[:, :1].sign()
        rows[1] = torch.eye(2)  # one start goes on
        return rows

    monkeypatch.setattr(toy, "gradients", across)
    paths = descend(2.0, ToyConfig(learning_rate=0.2, steps=1300))
    assert paths.outcomes == (STALLED, UNFINISHED, STALLED, STALLED, STALLED)
    assert max(paths.steps[start] for start in (0, 2, 3, 4)) <= 1200
    # It stays where it is, although another goes on.
    assert (paths.points[paths.steps[2] // CHECK_EVERY :, 2] == paths.path(2)[-1]).all()


def test_a_descent_that_is_out_of_steps_says_so():
    paths = descend(2.0, ToyConfig(steps=150))
    assert paths.outcomes == (UNFINISHED,) * len(STARTS) and paths.steps == (150,) * len(STARTS)
    assert [len(paths.path(start)) for start in range(len(STARTS))] == [3] * len(STARTS)


def test_what_is_not_finite_ends_at_once_at_a_finite_point():
    paths = descend(2.0, ToyConfig(learning_rate=1e200, steps=200))
    assert paths.outcomes.count(DIVERGED) >= 4 and sorted(paths.steps)[3] <= 10
    assert paths.points.isfinite().all()


def test_the_front_of_the_figure_is_the_pareto_set():
    front = pareto_set(15)
    assert (distance_from_front(front) == 0).all()
    assert front[[0, 7, 14], 0].tolist() == [-7, 0, 7]
    # No point of a front dominates another.
    first, second = losses(front).unbind(-1)
    assert (first.diff() < 0).all() and (second.diff() > 0).all()


def test_a_line_a_fairness_is_all_the_progress_in_a_log_file(capsys):
    descend(2.0, ToyConfig(steps=110), progress=True)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "\r" not in err
    assert err.startswith("α=2: 5 out of steps; 110 steps, ")
    descend(2.0, ToyConfig(steps=1), progress=False)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_is_shown(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    descend(2.0, ToyConfig(steps=110), progress=True)
    assert "\rα=2:   0%" in capsys.readouterr().err
