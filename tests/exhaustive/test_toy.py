"""The toy problem of Figure 1: where the trajectories of each fairness end."""

import pytest
import torch

from mtrl_fairgrad.supervised.benchmarks.toy import ARRIVED, STALLED, ToyConfig, descend
from tests.support.toy_trajectories import check_every_start_reaches_the_front, trajectories


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_fairgrad_reaches_the_pareto_front_from_every_start(alpha):
    check_every_start_reaches_the_front(alpha)


def test_linear_scalarisation_ends_at_one_point_of_the_front_or_in_a_valley():
    """From (9, 9) the large second loss leads into its valley; the others end at the minimum of the
    sum.
    """
    paths = trajectories(0.0)
    assert [outcome == ARRIVED for outcome in paths.outcomes] == [True, True, False, True, True]
    ends = paths.points[-1][[0, 1, 3, 4]]
    torch.testing.assert_close(
        ends[:, 0], torch.full((4,), -5.727, dtype=torch.float64), rtol=0, atol=0.1
    )


def test_more_fairness_ends_nearer_to_the_small_loss():
    ends = [trajectories(alpha).points[-1, 1, 0] for alpha in (1.0, 2.0, 5.0)]
    assert ends[0] < ends[1] < ends[2]


def test_in_the_figure_linear_scalarisation_stalls_from_one_start_alone():
    paths = descend(0.0, ToyConfig(steps=40_000))
    assert paths.outcomes == (ARRIVED, ARRIVED, STALLED, ARRIVED, ARRIVED)
    assert paths.steps[2] <= 30_000
