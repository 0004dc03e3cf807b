"""The method as a user meets it: options, masking, diagnostics, degenerate input, other libraries'
answers."""

import math

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting import FairGrad
from mtrl_fairgrad.weighting.solvers import least_squares, newton, relative_residual, sgd
from tests.unit.weighting.samplers import conflicting, heterogeneous, ordinary

SOLVERS = ("newton", "sgd", "least_squares")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def products(*jacobians: Tensor) -> Tensor:
    stacked = torch.stack(jacobians)
    return stacked @ stacked.mT


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_solvers_are_the_ones_named(alpha: float) -> None:
    gramian = products(ordinary(5, generator(0)), heterogeneous(5, generator(1)))
    for name, solve in zip(SOLVERS, (newton, sgd, least_squares), strict=True):
        expected = solve(gramian, alpha)
        weights, diagnostics = FairGrad(alpha, solver=name)(gramian)
        assert torch.equal(weights, expected.weights)
        assert torch.equal(diagnostics["residual"], expected.residual)
        assert torch.equal(diagnostics["converged"], expected.converged)


def test_sgd_options_reach_the_solver() -> None:
    gramian = products(0.3 * ordinary(5, generator(0)))
    method = FairGrad(
        2, solver="sgd", sgd_steps=7, sgd_learning_rate=0.05, sgd_momentum=0.2, sgd_max_norm=3
    )
    expected = sgd(gramian, 2.0, steps=7, learning_rate=0.05, momentum=0.2, max_norm=3.0)
    assert torch.equal(method(gramian).weights, expected.weights)


def test_diagnostics_describe_the_weights() -> None:
    jacobian = conflicting(6, generator(2))
    gramian = jacobian @ jacobian.T
    weights, diagnostics = FairGrad(alpha=2)(gramian)
    progress = jacobian @ (weights @ jacobian)
    torch.testing.assert_close(diagnostics["min_progress"], progress.min(), rtol=1e-9, atol=0)
    torch.testing.assert_close(progress.min(), weights.max() ** -0.5, rtol=1e-4, atol=0)
    assert (
        diagnostics["residual"] < 1e-10
    )  # rounding is left of it, which differs between processors
    assert diagnostics["converged"]
    assert diagnostics["active"].all()


def test_the_residual_is_that_of_the_weights() -> None:
    jacobian = conflicting(6, generator(2))
    gramian = jacobian @ jacobian.T
    weights, diagnostics = FairGrad(alpha=2, solver="sgd")(gramian)  # far from solved
    torch.testing.assert_close(
        diagnostics["residual"], relative_residual(gramian, weights, 2.0), rtol=1e-9, atol=0
    )
    assert diagnostics["residual"] > 0.01


def test_the_papers_fast_solver_can_leave_tasks_behind_and_says_so() -> None:
    left_behind = 0
    for seed in range(20):
        jacobian = 0.05 * conflicting(10, generator(seed))
        jacobian[0] *= 10
        gramian = jacobian @ jacobian.T
        exact, fast = (
            FairGrad(2)(gramian).diagnostics,
            FairGrad(2, solver="sgd")(gramian).diagnostics,
        )
        assert exact["min_progress"] > 0
        assert exact["converged"]
        assert not fast["converged"]
        assert fast["residual"] > exact["residual"]
        left_behind += int(fast["min_progress"] < 0)
    assert left_behind > 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_without_fairness_it_is_linear_scalarisation(solver: str) -> None:
    gramian = products(conflicting(4, generator(3)), ordinary(4, generator(4)))
    gramian[1, 2] = gramian[1, :, 2] = 0
    weights, diagnostics = FairGrad(alpha=0, solver=solver)(gramian)
    assert weights.tolist() == [[1, 1, 1, 1], [1, 1, 0, 1]]
    assert diagnostics["converged"].all()
    assert (diagnostics["residual"] == 0).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("min_relative_norm", [0.0, 1e-6])
def test_tasks_without_gradient_are_left_out(solver: str, min_relative_norm: float) -> None:
    jacobian = ordinary(4, generator(5))
    jacobian[1] = 0
    method = FairGrad(2, solver=solver, min_relative_norm=min_relative_norm)
    weights, diagnostics = method(jacobian @ jacobian.T)
    assert diagnostics["active"].tolist() == [True, False, True, True]
    assert weights[1] == 0
    rest = jacobian[[0, 2, 3]]
    torch.testing.assert_close(weights[[0, 2, 3]], method(rest @ rest.T).weights, rtol=1e-9, atol=0)
    assert diagnostics["min_progress"] != 0


def nearly_orthogonal(shrink: float) -> Tensor:
    """Four unit gradients in a thousand dimensions, the last one shrunk."""
    jacobian = torch.randn(4, 1000, generator=generator(6), dtype=torch.float64)
    jacobian = jacobian / jacobian.norm(dim=1, keepdim=True)
    jacobian[3] *= shrink
    return jacobian


def test_a_vanishing_task_would_dominate_and_is_left_out() -> None:
    jacobian = nearly_orthogonal(1e-8)
    gramian = jacobian @ jacobian.T

    def share_and_length(method: FairGrad) -> tuple[float, float]:
        direction = method(gramian).weights @ jacobian
        along = direction @ jacobian[3] / jacobian[3].norm()
        return float(along / direction.norm()), float(direction.norm())

    share, length = share_and_length(FairGrad(alpha=2, min_relative_norm=0))
    assert share > 0.999
    # ‖w_i g_i‖ = ‖g_i‖^((1−α)/(1+α)) for orthogonal gradients
    assert length == pytest.approx((1e-8) ** (-1 / 3), rel=0.1)
    share, length = share_and_length(FairGrad(alpha=2))
    assert abs(share) < 0.1
    assert length == pytest.approx(math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(("relative_norm", "active"), [(0.9e-3, False), (1.1e-3, True)])
def test_min_relative_norm_compares_norms(relative_norm: float, active: bool) -> None:
    jacobian = nearly_orthogonal(relative_norm)
    _, diagnostics = FairGrad(2, min_relative_norm=1e-3)(1e6 * (jacobian @ jacobian.T))
    assert diagnostics["active"].tolist() == [True, True, True, active]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_no_gradient_at_all_gives_zero_weights(solver: str, alpha: float) -> None:
    weights, diagnostics = FairGrad(alpha, solver=solver)(torch.zeros(2, 3, 3))
    assert (weights == 0).all()
    assert not diagnostics["active"].any()
    assert (diagnostics["min_progress"] == 0).all()
    assert (diagnostics["residual"] == 0).all()
    assert diagnostics["converged"].all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("alpha", [0.0, 2.0])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [(0, 0), (0, 2)])
def test_a_non_finite_element_stays_alone(
    solver: str, alpha: float, poison: float, place: tuple[int, int]
) -> None:
    gramian = products(*(ordinary(3, generator(seed)) for seed in range(3)))
    method = FairGrad(alpha, solver=solver)
    clean = method(gramian)
    gramian[(1, *place)] = poison
    weights, diagnostics = method(gramian)
    assert weights[1].isnan().all()
    assert diagnostics["residual"][1].isnan()
    assert diagnostics["min_progress"][1].isnan()
    assert not diagnostics["converged"][1]
    assert not diagnostics["active"][1].any()
    for i in (0, 2):
        assert torch.equal(weights[i], clean.weights[i])
        assert all(
            torch.equal(diagnostics[key][i], clean.diagnostics[key][i]) for key in diagnostics
        )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("alpha", [0.0, 2.0])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_shapes(solver: str, alpha: float, batch: tuple[int, ...]) -> None:
    jacobian = torch.randn(*batch, 4, 9, generator=generator(7))
    weights, diagnostics = FairGrad(alpha, solver=solver)(jacobian @ jacobian.mT)
    assert weights.shape == diagnostics["active"].shape == (*batch, 4)
    for key in ("residual", "min_progress", "converged"):
        assert diagnostics[key].shape == batch, key


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("alpha", [0.0, 2.0])
@pytest.mark.parametrize(
    ("given", "answered"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_dtypes(solver: str, alpha: float, given: torch.dtype, answered: torch.dtype) -> None:
    weights = FairGrad(alpha, solver=solver)(torch.eye(3, dtype=given)).weights
    assert weights.dtype == answered
    torch.testing.assert_close(weights, torch.ones(3, dtype=answered), rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    ("solver", "tolerance"), [("newton", 1e-9), ("least_squares", 1e-4), ("sgd", 0.15)]
)
def test_one_task(solver: str, tolerance: float) -> None:
    gramian = torch.tensor([[0.25]], dtype=torch.float64)
    weights, diagnostics = FairGrad(2, solver=solver)(gramian)
    assert weights.item() == pytest.approx(0.25 ** (-2 / 3), rel=tolerance)
    assert diagnostics["active"].tolist() == [True]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_no_gradient_flows_through_weights(solver: str, alpha: float) -> None:
    jacobian = ordinary(3, generator(8)).requires_grad_()
    weights, diagnostics = FairGrad(alpha, solver=solver)(jacobian @ jacobian.T)
    assert not weights.requires_grad
    assert not any(value.requires_grad for value in diagnostics.values())
    (weights @ jacobian).sum().backward()  # the direction still depends on the gradients themselves
    assert jacobian.grad is not None
    torch.testing.assert_close(jacobian.grad, weights[:, None].expand_as(jacobian))


def test_the_input_is_left_alone() -> None:
    gramian = products(conflicting(4, generator(9)))
    before = gramian.clone()
    for solver in SOLVERS:
        FairGrad(2, solver=solver)(gramian)
    assert torch.equal(gramian, before)
