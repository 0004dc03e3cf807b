"""Bounds of weights, and the length of the direction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting.rescaling import (
    at_length_of_mean,
    bound_ratios,
    min_progress,
    worsened,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ---- bounds ----


def test_one_enormous_weight_leaves_the_others_alone() -> None:
    # The mean m of (1, 1, 1, 3m) is 3^(1/3).
    found = bound_ratios(tensor(1, 1, 1, 1e6), 3)
    torch.testing.assert_close(found, tensor(1, 1, 1, 3 ** (4 / 3)))
    # All weights outside, half of them at each end: m is any number between.
    torch.testing.assert_close(bound_ratios(tensor(1, 1e6), 3), tensor(1e3 / 3, 3e3))


@pytest.mark.parametrize("ratio", [1.0, 1.5, 3.0, 100.0])
@pytest.mark.parametrize("tasks", [1, 2, 3, 10])
def test_weights_are_within_the_factor_of_their_own_geometric_mean(
    ratio: float, tasks: int
) -> None:
    weights = (3 * normal(200, tasks)).exp()
    found = bound_ratios(weights, ratio)
    mean = found.log().mean(-1, keepdim=True).exp()
    assert (found <= mean * ratio * (1 + 1e-9)).all()
    assert (found >= mean / ratio * (1 - 1e-9)).all()
    inside = (weights < mean * ratio * (1 - 1e-9)) & (weights > mean / ratio * (1 + 1e-9))
    assert torch.equal(found[inside], weights[inside])
    order = weights.argsort(-1)
    assert (found.gather(-1, order).diff(dim=-1) >= 0).all()
    torch.testing.assert_close(bound_ratios(1e-20 * weights, ratio), 1e-20 * found)


def test_tasks_left_out_stay_out_and_do_not_count() -> None:
    weights = tensor(0, 1, 1, 1, 1e6, 0)
    torch.testing.assert_close(bound_ratios(weights, 3), tensor(0, 1, 1, 1, 3 ** (4 / 3), 0))
    assert bound_ratios(torch.zeros(2, 3), 3).tolist() == [[0, 0, 0]] * 2


def test_a_bad_element_stays_alone() -> None:
    weights = torch.stack([torch.full((3,), torch.nan).double(), tensor(1, 1, 100)])
    found = bound_ratios(weights, 2)
    assert found[0].isnan().all()
    assert torch.equal(found[1], bound_ratios(weights[1], 2))


# ---- length ----


def test_the_direction_is_as_long_as_the_mean() -> None:
    rows, weights = normal(4, 3, 8), normal(4, 3, seed=1).abs()
    found = at_length_of_mean(weights, rows @ rows.mT)
    length = (found.unsqueeze(1) @ rows).norm(dim=-1)
    torch.testing.assert_close(length, rows.mean(1, keepdim=True).norm(dim=-1))
    factors = found / weights
    assert (factors > 0).all()
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))


def test_a_direction_that_vanishes_is_zero() -> None:
    rows = torch.tensor([[1.0, 0], [-2, 0], [0, 0]])
    for weights in (torch.zeros(3), torch.tensor([2e6, 1e6, 0]), torch.tensor([0.0, 0, 1])):
        assert at_length_of_mean(weights, rows @ rows.T).tolist() == [0, 0, 0]
    # The mean vanishes, too.
    assert at_length_of_mean(torch.ones(3), torch.zeros(3, 3)).tolist() == [0, 0, 0]


def test_the_smallest_progress_is_that_of_tasks_with_weight() -> None:
    rows = torch.tensor([[1.0, 0], [-2, 0], [0, 3]])
    gramian = rows @ rows.T
    assert min_progress(gramian, torch.tensor([1.0, 0, 1])) == 1
    assert min_progress(gramian, torch.tensor([1.0, 1, 1])) == -1
    assert min_progress(gramian, torch.zeros(3)) == 0
    assert min_progress(gramian, torch.full((3,), torch.nan)).isnan()


def test_worsened_tasks_are_those_whose_gradient_points_away_from_the_direction():
    gradients = torch.tensor([[3.0, 0], [-1, 1], [0, 1], [0, 0]], dtype=torch.float64)
    weights = torch.tensor([1.0, 1, 1, 1], dtype=torch.float64) / 4
    gramian = gradients @ gradients.mT
    expected = ((gradients @ (weights @ gradients)) < 0).double()
    assert expected.tolist() == [0, 0, 0, 0]
    assert torch.equal(worsened(gramian, weights), expected)
    gradients[1] = torch.tensor([-1.0, 0.1])
    gramian = gradients @ gradients.mT
    assert worsened(gramian, weights).tolist() == [0, 1, 0, 0]
    assert worsened(1e-30 * gramian, weights).tolist() == [0, 1, 0, 0]
    weights[0] = torch.nan
    assert worsened(gramian, weights).isnan().all()


def test_an_orthogonal_task_is_not_worsened_by_rounding():
    gradients = torch.tensor([[1.0, 0], [-1e-9, 1e-3]], dtype=torch.float64)
    assert worsened(gradients @ gradients.mT, torch.tensor([1.0, 0.0])).tolist() == [0, 0]
