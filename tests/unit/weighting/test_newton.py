"""The exact solver against 25-digit solutions, on hard and on impossible Gramians, in both of its
forms.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mtrl_fairgrad.weighting.solvers import newton, relative_residual
from tests.unit.weighting.exact_solution import angle, exact_weights
from tests.unit.weighting.newton_checks import FORMS, Form, check_against_exact, generator
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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0, 10.0])
@pytest.mark.parametrize("condition", [1e8, 1e10, 1e14, 1e20])
def test_solves_the_ridged_equation_beyond_any_condition_number(
    condition: float, alpha: float, form: Form
) -> None:
    for tasks in (2, 5, 20):
        jacobian = conditioned(tasks, generator(tasks), condition=condition)
        gramian = jacobian @ jacobian.T
        solution = newton(gramian, alpha, form=form)
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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 2.0, 10.0, 100.0])
def test_opposite_gradients_cancel(alpha: float, dtype: torch.dtype, form: Form) -> None:
    g = torch.tensor([3.0, -4.0], dtype=dtype)
    jacobian = torch.stack([g, -g])
    solution = newton(jacobian @ jacobian.T, alpha, form=form)
    assert not solution.converged
    assert solution.weights.isfinite().all()
    assert solution.residual >= 1 - 1e-3
    # Each of the two pulls with 5 × its weight; what is left of that is rounding.
    assert (solution.weights @ jacobian).norm() <= 1e-6 * solution.weights.sum()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("alpha", "length"), [(0.1, 1e-4), (1.0, 2e-3), (2.0, 2e-2), (10.0, 0.6)])
def test_pareto_stationary_gradients_nearly_cancel(alpha: float, length: float, form: Form) -> None:
    for seed in range(5):
        jacobian = ordinary(4, generator(seed))
        jacobian = jacobian / jacobian.norm(dim=1, keepdim=True)
        jacobian[3] = -(jacobian[:3] * torch.tensor([[0.2], [1.0], [3.0]])).sum(0)
        solution = newton(jacobian @ jacobian.T, alpha, form=form)
        assert not solution.converged
        assert solution.weights.isfinite().all()
        assert solution.residual > 0.5
        assert (solution.weights @ jacobian).norm() <= length


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha", [0.1, 2.0, 7.0, 50.0])
def test_converged_means_a_small_residual_near_stationary_points(alpha: float, form: Form) -> None:
    solved = []
    for seed, remainder in enumerate((1e-1, 1e-2, 1e-4, 1e-5)):
        jacobian = conflicting(10, generator(seed), remainder)
        solution = newton(jacobian @ jacobian.T, alpha, form=form)
        assert solution.converged == (solution.residual <= 1e-3)
        solved.append(bool(solution.converged))
    assert solved == [True, True, False, False]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "longer", "alpha"),
    [(torch.float32, 10.0, 50.0), (torch.float64, 1e4, 50.0), (torch.float64, 1e8, 50.0)],
)
def test_a_weight_below_the_range_of_the_dtype_is_its_smallest_number(
    dtype: torch.dtype, longer: float, alpha: float, form: Form
) -> None:
    """For g and s·g the equation gives w_2 = w_1 · s^(−α), and w_1 near 1 if w_2 vanishes."""
    jacobian = torch.tensor([[1.0, 0.0], [longer, 0.0]], dtype=dtype)
    solution = newton(jacobian @ jacobian.T, alpha, form=form)
    tiny = torch.finfo(dtype).tiny
    expected = torch.tensor([1.0, max(longer**-alpha, tiny)], dtype=dtype)
    torch.testing.assert_close(solution.weights, expected, rtol=2e-6, atol=0)
    assert solution.converged


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicates_share_equally_in_singular_gramians(
    dtype: torch.dtype, alpha: float, form: Form
) -> None:
    jacobian = heterogeneous(6, generator(0), decades=2).repeat(2, 1)
    solution = newton((jacobian @ jacobian.T).to(dtype), alpha, form=form)
    assert solution.converged
    torch.testing.assert_close(solution.weights[:6], solution.weights[6:], rtol=1e-4, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_gramians_made_indefinite_by_rounding_are_solved(form: Form) -> None:
    jacobian = ordinary(6, generator(1)).repeat(2, 1)
    noise = torch.randn(12, 12, generator=generator(2), dtype=torch.float64)
    gramian = jacobian @ jacobian.T
    gramian = gramian + 1e-5 * (noise + noise.T)
    assert torch.linalg.eigvalsh(gramian).min() < -1e-5
    solution = newton(gramian.float(), 2.0, form=form)
    assert solution.converged
    clean = newton(jacobian @ jacobian.T, 2.0).weights
    pooled = solution.weights[:6] + solution.weights[6:]
    torch.testing.assert_close(pooled.double(), clean[:6] + clean[6:], rtol=1e-3, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_gramian_is_answered_by_nan(form: Form) -> None:
    gramian = torch.stack([torch.eye(2), torch.tensor([[1.0, 3.0], [3.0, 1.0]])])
    solution = newton(gramian, 2.0, form=form)
    assert solution.converged.tolist() == [True, False]
    assert solution.weights.isnan().tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1e-15, 1e-8, 1e8, 1e15])
@pytest.mark.parametrize("alpha", [0.01, 0.1, 1.0, 2.0, 10.0, 100.0])
def test_extreme_scales_neither_over_nor_underflow(scale: float, alpha: float, form: Form) -> None:
    jacobian = ordinary(5, generator(3))
    plain = newton(jacobian @ jacobian.T, alpha, form=form).weights
    scaled = newton(scale * (jacobian @ jacobian.T), alpha, form=form)
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
def test_both_forms_agree(name: str, alpha: float) -> None:
    jacobians = torch.stack([SAMPLERS[name](7, generator(seed)) for seed in range(8)])
    gramians = jacobians @ jacobians.mT
    lapack, batched = (newton(gramians, alpha, form=form) for form in FORMS)
    assert lapack.converged.all()
    assert batched.converged.all()
    a, b = ((s.weights[:, None] @ jacobians).squeeze(1) for s in (lapack, batched))
    assert ((a - b).norm(dim=1) <= 1e-6 * a.norm(dim=1)).all()


@pytest.mark.parametrize("form", FORMS)
def test_leading_axes_are_independent_problems(form: Form) -> None:
    jacobians = torch.stack([heterogeneous(4, generator(seed)) for seed in range(6)])
    gramians = jacobians @ jacobians.mT
    stacked = newton(gramians.reshape(2, 3, 4, 4), 2.0, form=form)
    assert stacked.weights.shape == (2, 3, 4)
    assert stacked.residual.shape == stacked.converged.shape == (2, 3)
    for i, gramian in enumerate(gramians):
        alone = newton(gramian, 2.0, form=form)
        assert alone.weights.shape == (4,)
        assert alone.residual.shape == alone.converged.shape == ()
        torch.testing.assert_close(stacked.weights[divmod(i, 3)], alone.weights, rtol=1e-9, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_batch_stays_empty(form: Form) -> None:
    solution = newton(torch.zeros(0, 3, 3), 2.0, form=form)
    assert solution.weights.shape == (0, 3)
    assert solution.converged.shape == (0,)


def test_on_a_device_nothing_is_read_back() -> None:
    # Tensors without values: whoever asks for one on the host, to branch or to print, gets an
    # exception.
    with FakeTensorMode():
        solution = newton(torch.empty(3, 10, 10), 2.0, form="batched")
        assert solution.weights.shape == (3, 10)
        with pytest.raises(Exception, match=r"(?i)numpy|data"):
            newton(torch.empty(3, 10, 10), 2.0, form="lapack")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_nothing_synchronises_and_the_answer_is_the_same() -> None:
    jacobians = torch.stack([conflicting(10, generator(seed)) for seed in range(4)])
    gramians = jacobians @ jacobians.mT
    expected = newton(gramians, 2.0).weights
    on_device = gramians.cuda()
    newton(on_device, 2.0)  # libraries may synchronise when first loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = newton(on_device, 2.0).weights
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=0)
