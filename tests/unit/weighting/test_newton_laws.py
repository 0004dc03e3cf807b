"""Laws of the α-fair solution, each from hand algebra or from another way to compute it."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from mtrl_fairgrad.weighting.solvers import newton
from tests.unit.weighting.samplers import SAMPLERS, conflicting, heterogeneous, ordinary

ALPHAS = (0.1, 0.5, 1.0, 2.0, 10.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def solve(jacobian: Tensor, alpha: float, active: Tensor | None = None) -> Tensor:
    solution = newton(jacobian @ jacobian.T, alpha, active)
    assert solution.converged
    return solution.weights


@pytest.mark.parametrize("alpha", [*ALPHAS, 0.01, 100.0])
def test_one_task(alpha: float) -> None:
    for square in (1e-6, 0.25, 9.0, 1e4):
        found = newton(torch.tensor([[square]], dtype=torch.float64), alpha).weights
        assert found.item() == pytest.approx(square ** (-alpha / (1 + alpha)), rel=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_orthogonal_gradients(alpha: float) -> None:
    norms = torch.tensor([1e-3, 0.1, 1.0, 20.0, 5e4], dtype=torch.float64)
    torch.testing.assert_close(
        solve(norms.diag(), alpha), norms ** (-2 * alpha / (1 + alpha)), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("cosine", [-0.99, -0.5, 0.0, 0.7, 0.999])
def test_two_tasks_under_proportional_fairness(cosine: float) -> None:
    norms = torch.tensor([[0.02], [30.0]], dtype=torch.float64)
    sine = math.sqrt(1 - cosine**2)
    jacobian = norms * torch.tensor([[1.0, 0.0], [cosine, sine]], dtype=torch.float64)
    expected = 1 / (norms[:, 0] * math.sqrt(1 + cosine))
    torch.testing.assert_close(solve(jacobian, 1.0), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("name", ["ordinary", "heterogeneous", "aligned", "conflicting"])
def test_every_task_improves_by_a_power_of_its_weight(name: str, alpha: float) -> None:
    jacobian = SAMPLERS[name](8, generator(0))
    weights = solve(jacobian, alpha)
    progress = jacobian @ (weights @ jacobian)
    assert (progress > 0).all()
    torch.testing.assert_close(progress, weights ** (-1 / alpha), rtol=1e-8, atol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", ["ordinary", "heterogeneous", "aligned", "conflicting"])
def test_squared_length_is_a_sum_of_powers_of_weights(name: str, alpha: float) -> None:
    jacobian = SAMPLERS[name](8, generator(1))
    weights = solve(jacobian, alpha)
    square = (weights @ jacobian).square().sum()
    torch.testing.assert_close(square, (weights ** (1 - 1 / alpha)).sum(), rtol=1e-9, atol=0)
    if alpha == 1:
        assert square.item() == pytest.approx(8, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-5, 1e-2, 1e2, 1e5])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_scaling_all_gradients_scales_the_weights(alpha: float, scale: float) -> None:
    jacobian = heterogeneous(6, generator(2))
    expected = solve(jacobian, alpha) * scale ** (-2 * alpha / (1 + alpha))
    torch.testing.assert_close(solve(scale * jacobian, alpha), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-4, 0.1, 1e4])
def test_rescaling_one_task_changes_nothing_under_proportional_fairness(scale: float) -> None:
    jacobian = conflicting(5, generator(3))
    scaled = jacobian.clone()
    scaled[2] *= scale
    before, after = (solve(j, 1.0) @ j for j in (jacobian, scaled))
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-9)
    # and is no law of all α: the same rescaling turns the direction of another fairness
    before, after = (solve(j, 3.0) @ j for j in (jacobian, scaled))
    assert torch.cosine_similarity(before, after, dim=0) < 0.999


@pytest.mark.parametrize("alpha", ALPHAS)
def test_renumbering_tasks_renumbers_weights(alpha: float) -> None:
    for name, sample in SAMPLERS.items():
        jacobian = sample(9, generator(4))
        order = torch.randperm(9, generator=generator(5))
        direction, renumbered = solve(jacobian, alpha) @ jacobian, solve(jacobian[order], alpha)
        torch.testing.assert_close(
            renumbered @ jacobian[order],
            direction,
            rtol=1e-6,
            atol=1e-6 * direction.norm().item(),
            msg=name,
        )
        if name in ("ordinary", "heterogeneous", "aligned"):
            torch.testing.assert_close(
                renumbered, solve(jacobian, alpha)[order], rtol=1e-6, atol=0, msg=name
            )


@pytest.mark.parametrize("alpha", ALPHAS)
def test_identical_tasks_weigh_the_same(alpha: float) -> None:
    jacobian = ordinary(4, generator(6))
    jacobian[3] = jacobian[0]
    weights = solve(jacobian, alpha)
    torch.testing.assert_close(weights[3], weights[0], rtol=1e-6, atol=0)
    assert (weights[1:3] - weights[0]).abs().min() > 1e-3


@pytest.mark.parametrize("alpha", ALPHAS)
def test_inactive_tasks_are_as_if_absent(alpha: float) -> None:
    jacobian = conflicting(6, generator(7))
    active = torch.tensor([True, False, True, True, False, True])
    gramian = jacobian @ jacobian.T
    gramian[1, 1] = 1e8  # nothing about an inactive task may matter
    found = newton(gramian, alpha, active).weights
    alone = solve(jacobian[active], alpha)
    assert (found[~active] == 0).all()
    torch.testing.assert_close(found[active], alone, rtol=1e-6, atol=0)


def min_norm_point(jacobian: Tensor) -> np.ndarray:
    """MGDA's convex combination, by sequential quadratic programming."""
    matrix = (jacobian @ jacobian.T).numpy()
    found = minimize(
        lambda w: 0.5 * w @ matrix @ w,
        np.full(len(matrix), 1 / len(matrix)),
        jac=lambda w: matrix @ w,
        bounds=[(0, 1)] * len(matrix),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert found.success
    return found.x


@pytest.mark.parametrize("seed", range(5))
def test_infinite_fairness_is_mgda(seed: int) -> None:
    jacobian = ordinary(5, generator(seed)) * torch.tensor([[1.0], [1.5], [2.0], [0.8], [1.2]])
    mgda = torch.as_tensor(min_norm_point(jacobian))
    limit = mgda / (mgda @ jacobian).square().sum()
    errors = [
        (solve(jacobian, alpha) - limit).norm() / limit.norm() for alpha in (1e2, 1e3, 1e4, 1e5)
    ]
    assert errors[-1] < 1e-3
    # First order in 1/α: ten times the fairness, a tenth of the distance.
    assert all(5 < a / b < 20 for a, b in pairwise(errors[1:]))


def least_weights(jacobian: Tensor) -> np.ndarray:
    """`argmin ½ wᵀMw` over `w ≥ 1`, by projected quasi-Newton."""
    matrix = (jacobian @ jacobian.T).numpy()
    found = minimize(
        lambda w: 0.5 * w @ matrix @ w,
        np.full(len(matrix), 2.0),
        jac=lambda w: matrix @ w,
        bounds=[(1, None)] * len(matrix),
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
    )
    return found.x


def test_vanishing_fairness_is_linear_scalarisation_unless_a_task_would_lose() -> None:
    scalarised = 0
    for seed in range(6):
        jacobian = ordinary(4, generator(seed)) + (0.5 if seed % 2 else 0.0)
        jacobian[0] *= 0.3
        expected = torch.as_tensor(least_weights(jacobian))
        torch.testing.assert_close(solve(jacobian, 1e-3), expected, rtol=2e-2, atol=0)
        torch.testing.assert_close(solve(jacobian, 1e-5), expected, rtol=2e-4, atol=0)
        if ((jacobian @ jacobian.T).sum(1) >= 0).all():
            scalarised += 1
            assert (expected == 1).all()
        else:
            assert expected.max() > 1
    assert 0 < scalarised < 6, "both sides of the law must occur"
