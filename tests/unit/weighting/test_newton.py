"""The exact solver against 25-digit solutions, on hard and on impossible Gramians."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting.solvers import newton, relative_residual
from mtrl_fairgrad.weighting.solvers.safeguarded import Objective
from tests.support.errors import refused
from tests.unit.weighting.exact_solution import angle, exact_weights
from tests.unit.weighting.newton_checks import check_against_exact, generator
from tests.unit.weighting.samplers import (
    SAMPLERS,
    conditioned,
    conflicting,
    heterogeneous,
    ordinary,
)

ALPHAS = (0.1, 0.5, 1.0, 2.0, 10.0)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_direction_equals_the_exact_one(name: str, alpha: float) -> None:
    for tasks, seeds in ((2, range(4)), (3, range(4)), (10, range(4))):
        check_against_exact(name, alpha, tasks, seeds)


@pytest.mark.parametrize("name", SAMPLERS)
def test_direction_equals_the_exact_one_for_fifty_tasks(name: str) -> None:
    check_against_exact(name, 2.0, 50, range(2))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", ["ordinary", "heterogeneous", "aligned", "conflicting"])
def test_single_precision_gramians_suffice_on_ordinary_problems(name: str, alpha: float) -> None:
    for seed in range(4):
        jacobian = SAMPLERS[name](10, generator(seed))
        gramian = jacobian @ jacobian.T
        solution = newton(gramian.float(), alpha)
        assert solution.weights.dtype == torch.float32
        exact = exact_weights(gramian, newton(gramian, alpha).weights, alpha)
        assert angle(jacobian, solution.weights, exact) <= 0.003


def smallest_eigenvalue(gramian: Tensor) -> float:
    norms = gramian.diagonal().sqrt()
    return float(torch.linalg.eigvalsh(gramian / norms[:, None] / norms)[0])


def with_ridge(gramian: Tensor, ridge: float) -> Tensor:
    """Add the ridge of `newton`: on the cosine matrix, it is a part of the Gramian's diagonal."""
    return gramian + ridge * gramian.diagonal().diag()


@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0, 10.0])
@pytest.mark.parametrize("condition", [1e8, 1e10, 1e14, 1e20])
def test_solves_the_ridged_equation_beyond_any_condition_number(
    condition: float, alpha: float
) -> None:
    for tasks in (2, 5, 20):
        jacobian = conditioned(tasks, generator(tasks), condition=condition)
        gramian = jacobian @ jacobian.T
        solution = newton(gramian, alpha)
        assert solution.converged == (relative_residual(gramian, solution.weights, alpha) <= 1e-3)
        assert smallest_eigenvalue(gramian) < 1e-6
        assert relative_residual(with_ridge(gramian, 1e-8), solution.weights, alpha) <= 2e-6


def test_the_error_of_an_ill_conditioned_direction_is_reported(
    record_property: Callable[[str, object], None],
) -> None:
    worst = 0.0
    for seed in range(4):
        jacobian = conditioned(5, generator(seed), condition=1e9)
        gramian = jacobian @ jacobian.T
        solution = newton(gramian, 2.0)
        worst = max(
            worst, angle(jacobian, solution.weights, exact_weights(gramian, solution.weights, 2.0))
        )
    record_property("degrees_at_condition_1e9", worst)
    assert worst <= 5.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 2.0, 10.0, 100.0])
def test_opposite_gradients_cancel(alpha: float, dtype: torch.dtype) -> None:
    g = torch.tensor([3.0, -4.0], dtype=dtype)
    jacobian = torch.stack([g, -g])
    solution = newton(jacobian @ jacobian.T, alpha)
    assert not solution.converged
    assert solution.weights.isfinite().all()
    assert solution.residual >= 1 - 1e-3
    # Each of the two pulls with 5 × its weight; what is left of that is rounding.
    assert (solution.weights @ jacobian).norm() <= 1e-6 * solution.weights.sum()


@pytest.mark.parametrize(("alpha", "length"), [(0.1, 1e-4), (1.0, 2e-3), (2.0, 2e-2), (10.0, 0.6)])
def test_pareto_stationary_gradients_nearly_cancel(alpha: float, length: float) -> None:
    for seed in range(5):
        jacobian = ordinary(4, generator(seed))
        jacobian = jacobian / jacobian.norm(dim=1, keepdim=True)
        jacobian[3] = -(jacobian[:3] * torch.tensor([[0.2], [1.0], [3.0]])).sum(0)
        solution = newton(jacobian @ jacobian.T, alpha)
        assert not solution.converged
        assert solution.weights.isfinite().all()
        assert solution.residual > 0.5
        assert (solution.weights @ jacobian).norm() <= length


@pytest.mark.parametrize("alpha", [0.1, 2.0, 7.0, 50.0])
def test_converged_means_a_small_residual_near_stationary_points(alpha: float) -> None:
    solved = []
    for seed, remainder in enumerate((1e-1, 1e-2, 1e-4, 1e-5)):
        jacobian = conflicting(10, generator(seed), remainder)
        solution = newton(jacobian @ jacobian.T, alpha)
        assert solution.converged == (solution.residual <= 1e-3)
        solved.append(bool(solution.converged))
    assert solved == [True, True, False, False]


@pytest.mark.parametrize(
    ("dtype", "longer", "alpha"),
    [(torch.float32, 10.0, 50.0), (torch.float64, 1e4, 50.0), (torch.float64, 1e8, 50.0)],
)
def test_a_weight_below_the_range_of_the_dtype_is_its_smallest_number(
    dtype: torch.dtype, longer: float, alpha: float
) -> None:
    """For g and s·g the equation gives w_2 = w_1 · s^(−α), and w_1 near 1 if w_2 vanishes."""
    jacobian = torch.tensor([[1.0, 0.0], [longer, 0.0]], dtype=dtype)
    solution = newton(jacobian @ jacobian.T, alpha)
    tiny = torch.finfo(dtype).tiny
    expected = torch.tensor([1.0, max(longer**-alpha, tiny)], dtype=dtype)
    torch.testing.assert_close(solution.weights, expected, rtol=2e-6, atol=0)
    assert solution.converged


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicates_share_equally_in_singular_gramians(dtype: torch.dtype, alpha: float) -> None:
    jacobian = heterogeneous(6, generator(0), decades=2).repeat(2, 1)
    solution = newton((jacobian @ jacobian.T).to(dtype), alpha)
    assert solution.converged
    torch.testing.assert_close(solution.weights[:6], solution.weights[6:], rtol=1e-4, atol=0)


def test_gramians_made_indefinite_by_rounding_are_solved() -> None:
    jacobian = ordinary(6, generator(1)).repeat(2, 1)
    noise = torch.randn(12, 12, generator=generator(2), dtype=torch.float64)
    gramian = jacobian @ jacobian.T
    gramian = gramian + 1e-5 * (noise + noise.T)
    assert torch.linalg.eigvalsh(gramian).min() < -1e-5
    solution = newton(gramian.float(), 2.0)
    assert solution.converged
    clean = newton(jacobian @ jacobian.T, 2.0).weights
    pooled = solution.weights[:6] + solution.weights[6:]
    torch.testing.assert_close(pooled.double(), clean[:6] + clean[6:], rtol=1e-3, atol=0)


def test_what_is_no_gramian_is_answered_by_nan() -> None:
    gramian = torch.stack([torch.eye(2), torch.tensor([[1.0, 3.0], [3.0, 1.0]])])
    solution = newton(gramian, 2.0)
    assert solution.converged.tolist() == [True, False]
    assert solution.weights.isnan().tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("scale", [1e-15, 1e-8, 1e8, 1e15])
@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 2.0, 10.0, 100.0])
def test_extreme_scales_neither_over_nor_underflow(scale: float, alpha: float) -> None:
    jacobian = ordinary(5, generator(3))
    plain = newton(jacobian @ jacobian.T, alpha).weights
    scaled = newton(scale * (jacobian @ jacobian.T), alpha)
    assert scaled.converged
    # The Gramian scales by c², so w by (c²)^(−α/(1+α)).
    expected = plain * scale ** (-alpha / (1 + alpha))
    torch.testing.assert_close(scaled.weights, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("alpha", [0.01, 100.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_extreme_fairness_converges_to_finite_weights(name: str, alpha: float) -> None:
    for seed in range(5):
        jacobian = SAMPLERS[name](6, generator(seed))
        solution = newton(jacobian @ jacobian.T, alpha)
        assert solution.converged
        assert solution.weights.isfinite().all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_start_leads_to_the_same_solution(name: str, alpha: float) -> None:
    jacobians = torch.stack([SAMPLERS[name](7, generator(seed)) for seed in range(4)])
    gramians = jacobians @ jacobians.mT
    expected = newton(gramians, alpha).weights
    factors = torch.rand(4, 7, generator=generator(9), dtype=torch.float64) + 0.5
    for start in (expected, expected * factors, expected * torch.nan, torch.zeros(4, 7)):
        found = newton(gramians, alpha, start=start)
        assert found.converged.all()
        a, b = ((w[:, None] @ jacobians).squeeze(1) for w in (expected, found.weights))
        assert ((a - b).norm(dim=1) <= 1e-6 * a.norm(dim=1)).all()


def test_a_start_at_the_solution_saves_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    systems: list[int] = []
    system = Objective.system

    def counted(self: Objective, *arguments: Any) -> Any:
        systems.append(1)
        return system(self, *arguments)

    monkeypatch.setattr(Objective, "system", counted)
    jacobian = heterogeneous(8, generator(0), decades=2) + 5
    gramian = jacobian @ jacobian.T
    weights = newton(gramian, 2.0).weights
    cold = len(systems)
    newton(gramian, 2.0, start=weights)
    assert cold >= 4 and len(systems) - cold <= 1


def test_the_scale_of_a_start_is_that_of_its_gramian() -> None:
    """In a Gramian 1e20 times as large the same weights are far off: their scale counts."""
    jacobian = ordinary(4, generator(0))
    mask = torch.tensor([True, False, True, True])
    for scale in (1e-20, 1.0, 1e20):
        gramian = scale * (jacobian @ jacobian.T)
        expected = newton(gramian, 3.0, mask)
        found = newton(gramian, 3.0, mask, start=expected.weights)
        torch.testing.assert_close(found.weights, expected.weights, rtol=1e-10, atol=0)
        assert found.converged and found.weights[1] == 0


def test_leading_axes_are_independent_problems() -> None:
    jacobians = torch.stack([heterogeneous(4, generator(seed)) for seed in range(6)])
    gramians = jacobians @ jacobians.mT
    stacked = newton(gramians.reshape(2, 3, 4, 4), 2.0)
    assert stacked.weights.shape == (2, 3, 4)
    assert stacked.residual.shape == stacked.converged.shape == (2, 3)
    for i, gramian in enumerate(gramians):
        alone = newton(gramian, 2.0)
        assert alone.weights.shape == (4,)
        assert alone.residual.shape == alone.converged.shape == ()
        torch.testing.assert_close(stacked.weights[divmod(i, 3)], alone.weights, rtol=1e-9, atol=0)


def test_an_empty_batch_stays_empty() -> None:
    solution = newton(torch.zeros(0, 3, 3), 2.0)
    assert solution.weights.shape == (0, 3)
    assert solution.converged.shape == (0,)


def test_a_form_that_does_not_exist_is_refused() -> None:
    with refused("form", "lapack"):
        newton(torch.eye(2), 2.0, form="lapack")  # pyright: ignore[reportArgumentType]
