"""Answers of another library to the same questions."""

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import FairGrad as TorchJDFairGrad
from torchjd.aggregation import NashMTL

from mtrl_fairgrad.weighting import FairGrad, Weights
from mtrl_fairgrad.weighting.solvers import relative_residual
from tests.unit.weighting.samplers import SAMPLERS, heterogeneous, ordinary


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unfairness(gramian: Tensor, weights: Tensor) -> float:
    """How unequal `w_i (Mw)_i` are, which proportional fairness makes 1 for all: largest over
    smallest, less one."""
    shares = weights * (gramian @ weights)
    return float(shares.max() / shares.min() - 1)


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["ordinary", "aligned"])
def test_proportional_fairness_is_nash_mtl(name: str, seed: int) -> None:
    jacobian = SAMPLERS[name](6, generator(seed))
    gramian = jacobian @ jacobian.T
    theirs = NashMTL(n_tasks=6, optim_niter=100).weighting(jacobian)
    ours = FairGrad(alpha=1)(gramian).weights
    a, b = (torch.nn.functional.normalize(w @ jacobian, dim=0) for w in (ours, theirs))
    assert (a - b).norm() <= 1e-3
    assert unfairness(gramian, ours) < unfairness(gramian, theirs)
    assert unfairness(gramian, ours) < 1e-9


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_least_squares_is_torchjds_fairgrad(alpha: float) -> None:
    for seed in range(5):
        jacobian = 0.5 * ordinary(5, generator(seed))
        theirs = TorchJDFairGrad(alpha=alpha).gramian_weighting(jacobian @ jacobian.T)
        ours: Weights = FairGrad(alpha, solver="least_squares")(jacobian @ jacobian.T)
        torch.testing.assert_close(ours.weights, theirs, rtol=1e-6, atol=0)
        exact = FairGrad(alpha)(jacobian @ jacobian.T)
        torch.testing.assert_close(exact.weights, theirs, rtol=1e-2, atol=0)


def test_torchjds_fairgrad_is_off_where_the_exact_solver_is_not() -> None:
    off = 0
    for seed in range(4):
        jacobian = heterogeneous(10, generator(seed), decades=6)
        gramian = jacobian @ jacobian.T
        theirs = TorchJDFairGrad(alpha=5.0).gramian_weighting(gramian)
        exact = FairGrad(alpha=5)(gramian)
        assert exact.diagnostics["residual"] < 1e-6
        off += int(relative_residual(gramian, theirs, 5.0) > 0.1)
    assert off >= 2
