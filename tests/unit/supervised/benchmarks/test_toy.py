"""The toy problem of Figure 1: where trajectories end, and what its options change."""

import pytest
import torch

from mtrl_fairgrad.supervised.benchmarks.toy import (
    STARTS,
    ToyConfig,
    Trajectories,
    distance_from_front,
    draw,
    gradients,
    losses,
)
from mtrl_fairgrad.weighting import make_method
from tests.support.toy_trajectories import check_every_start_reaches_the_front


def test_fairgrad_reaches_the_pareto_front_from_every_start():
    check_every_start_reaches_the_front(2.0)


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


def test_the_figure_is_drawn(tmp_path):
    points = torch.tensor(STARTS, dtype=torch.float64).expand(3, -1, -1)
    paths = [
        Trajectories(alpha, points, torch.zeros(len(STARTS), dtype=torch.bool))
        for alpha in (0.0, 2.0)
    ]
    draw(paths, ToyConfig(), tmp_path / "toy.png")
    assert (tmp_path / "toy.png").stat().st_size > 10_000
