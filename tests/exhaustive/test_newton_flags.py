"""What the exact solver says of itself on hard problems at any fairness: its flags are honest.

Gradient norms span ten decades, gradients nearly cancel, and α is far outside the usual range. The
reference is the solution to 25 digits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

from mtrl_fairgrad.weighting.solvers import Solution, newton, relative_residual
from tests.unit.weighting.exact_solution import angle, exact_weights
from tests.unit.weighting.newton_checks import generator
from tests.unit.weighting.samplers import (
    Sampler,
    aligned,
    conditioned,
    conflicting,
    conflicting_heterogeneous,
    heterogeneous,
)


def spread(sampler: Callable[..., Tensor], *options: float) -> Sampler:
    """Gradients of the sampler with norms over ten decades."""

    def sample(tasks: int, generator: torch.Generator) -> Tensor:
        rows = sampler(tasks, generator, *options)
        decades = 10 * (torch.rand(tasks, 1, generator=generator, dtype=torch.float64) - 0.5)
        return rows * 10.0**decades

    return sample


HARD: dict[str, Sampler] = {
    "heterogeneous": lambda tasks, g: heterogeneous(tasks, g, 10.0),
    "conflicting": conflicting,
    "conflicting_heterogeneous": conflicting_heterogeneous,
    "nearly_stationary": lambda tasks, g: conflicting(tasks, g, 1e-3),
    "nearly_stationary_heterogeneous": spread(conflicting, 1e-3),
    "stationary_to_five_digits": spread(conflicting, 1e-5),
    "ill_conditioned": lambda tasks, g: conditioned(tasks, g, 1e6),
    "very_ill_conditioned": lambda tasks, g: conditioned(tasks, g, 1e9),
    "aligned": aligned,
}
ALPHAS = (0.1, 0.2, 0.4, 1.0, 5.0, 7.0, 9.0, 15.0, 30.0, 50.0)


def start(gramian: Tensor, solution: Solution, alpha: float) -> np.ndarray:
    """The solver's weights; those that float64 cannot hold from `w_i = (Mw)_i^(−α)`."""
    weights = np.vectorize(mpf, otypes=[object])(solution.weights.numpy())
    progress = np.vectorize(mpf, otypes=[object])(gramian.numpy()) @ weights
    small = solution.weights.numpy() < 1e-290
    weights[small] = [p ** -mpf(alpha) for p in progress[small]]
    return weights


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", HARD)
def test_converged_means_solved(name: str, alpha: float) -> None:
    for tasks, seeds in ((2, 4), (3, 3), (10, 3), (20, 2), (50, 1)):
        for seed in range(seeds):
            jacobian = HARD[name](tasks, generator(seed))
            gramian = jacobian @ jacobian.T
            check(jacobian, gramian, alpha)


def check(jacobian: Tensor, gramian: Tensor, alpha: float) -> None:
    solution = newton(gramian, alpha)
    single = newton(gramian.float(), alpha)
    assert (solution.weights > 0).all() and (single.weights > 0).all()
    assert bool(solution.converged) == (float(solution.residual) <= 1e-3)
    raw = relative_residual(gramian, solution.weights, alpha)
    held = solution.weights.min() > torch.finfo(torch.float64).tiny
    if alpha >= 0.5 and held:  # for smaller α, `w^(−1/α)` can be below the rounding of Mw
        terms = (gramian.abs() @ solution.weights) * solution.weights ** (1 / alpha)
        assert float(raw) <= float(solution.residual) + 2e-12 * float(terms.max())
    if not solution.converged:
        # The ridge shows in this equation, or rounding stopped the iteration.
        assert smallest_eigenvalue(gramian) < 1e-6 or alpha >= 15
        return
    with mp.workdps(250):
        exact = exact_weights(gramian, start(gramian, solution, alpha), alpha)
        assert angle(jacobian, solution.weights, exact) <= 0.01
        tiny = torch.finfo(torch.float32).tiny
        for found, true in zip(single.weights.tolist(), exact, strict=True):
            # A weight that float32 cannot hold is the smallest that it can hold.
            assert found > tiny or true < 2 * mpf(tiny)


def smallest_eigenvalue(gramian: Tensor) -> float:
    norms = gramian.diagonal().sqrt()
    return float(torch.linalg.eigvalsh(gramian / norms[:, None] / norms)[0])
