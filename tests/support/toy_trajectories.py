"""Trajectories on the toy problem of Figure 1, shared by tests of several tiers."""

import functools

import torch

from mtrl_fairgrad.supervised.benchmarks.toy import ARRIVED, ToyConfig, Trajectories, descend
from mtrl_fairgrad.supervised.benchmarks.toy_problem import STARTS, distance_from_front


@functools.cache
def trajectories(alpha: float) -> Trajectories:
    """Descend with ten times the learning rate of the figure, to arrive sooner."""
    return descend(alpha, ToyConfig(learning_rate=0.01, steps=8000))


def check_every_start_reaches_the_front(alpha: float) -> None:
    """Assert that the trajectories of this fairness begin at the starts and end on the front."""
    paths = trajectories(alpha)
    assert paths.outcomes == (ARRIVED,) * len(STARTS)
    assert (distance_from_front(paths.points[-1]) <= 0.03).all()
    assert paths.points.shape[1:] == (len(STARTS), 2)
    torch.testing.assert_close(paths.points[0], torch.tensor(STARTS, dtype=torch.float64))
