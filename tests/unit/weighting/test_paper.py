"""The paper's two solvers: faithful to their description, and as limited."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting import FairGrad
from mtrl_fairgrad.weighting.solvers import Solution, least_squares, newton, relative_residual, sgd
from tests.unit.weighting.samplers import SAMPLERS, heterogeneous, ordinary


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sgd_as_described(
    gramian: Tensor,
    alpha: float,
    steps: int = 20,
    learning_rate: float = 0.1,
    momentum: float = 0.5,
    max_norm: float = 1.0,
) -> Tensor:
    """The paper's fast solver with an optimiser, autograd and a loop, in the Gramian's precision:
    slow, plain, and easy to believe.
    """
    tasks = len(gramian)
    w = (torch.ones(tasks, dtype=gramian.dtype) / tasks).requires_grad_()
    optimiser = torch.optim.SGD([w], lr=learning_rate, momentum=momentum)
    best, lowest = w.detach().clone(), float("inf")
    for _ in range(steps):
        optimiser.zero_grad()
        power = torch.pow(1 / (w + 1e-8), 1 / alpha)
        objective = torch.linalg.norm(torch.mv(gramian, w) - power) ** 2
        if objective.item() < lowest:
            best, lowest = w.detach().clone(), objective.item()
        objective.backward()
        torch.nn.utils.clip_grad_norm_([w], max_norm)
        optimiser.step()
        with torch.no_grad():
            w.clamp_(min=1e-8)
    return best


def gramians_of_all_scales(name: str, tasks: int) -> tuple[Tensor, Tensor]:
    scales = (1e-3, 0.1, 1.0, 10.0)
    jacobians = torch.stack([s * SAMPLERS[name](tasks, generator(i)) for i, s in enumerate(scales)])
    return jacobians, jacobians @ jacobians.mT


def angles(jacobians: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Degrees between the directions of two sets of weights."""
    directions = ((w.double()[:, None] @ jacobians.double())[:, 0] for w in (a, b))
    a, b = (d / d.norm(dim=-1, keepdim=True) for d in directions)
    return torch.rad2deg(2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sgd_in_float64_is_what_the_paper_describes(name: str, alpha: float) -> None:
    for tasks in (1, 2, 10):
        _, gramians = gramians_of_all_scales(name, tasks)
        expected = torch.stack([sgd_as_described(gramian, alpha) for gramian in gramians])
        found = sgd(gramians, alpha, precision="float64").weights
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sgd_is_the_published_loop_bit_for_bit(name: str, alpha: float) -> None:
    """The published code runs in float32, where the clipped gradient's norm overflows."""
    for tasks in (1, 2, 10):
        _, gramians = gramians_of_all_scales(name, tasks)
        gramians = gramians.float().reshape(2, 2, tasks, tasks)
        published = torch.stack([sgd_as_described(g, alpha) for g in gramians.flatten(0, 1)])
        found = FairGrad(alpha, solver="sgd", min_relative_norm=0.0)(gramians).weights
        assert torch.equal(found.flatten(0, 1), published)


def test_sgd_in_float64_parts_from_the_published_code_where_float32_overflows() -> None:
    lengths = torch.tensor([[30.0], [1.0], [0.1]])
    jacobian = (torch.randn(3, 40, generator=generator(0)) * lengths)[None]
    gramian = jacobian @ jacobian.mT
    for alpha, smallest, largest in ((1.0, 30, 40), (2.0, 0, 1e-3)):
        single, double = (sgd(gramian, alpha, precision=p) for p in ("float32", "float64"))
        assert smallest <= float(angles(jacobian, single.weights, double.weights)) <= largest


def test_where_float32_cannot_hold_the_gramian_sgd_stays_at_its_start() -> None:
    gramian = 1e60 * torch.eye(3, dtype=torch.float64)
    found = sgd(gramian, 2.0)
    torch.testing.assert_close(found.weights, torch.full((3,), 1 / 3, dtype=torch.float64))
    assert not found.converged


@pytest.mark.parametrize(
    "options",
    [{"steps": 1}, {"steps": 300}, {"learning_rate": 0.01}, {"momentum": 0.0}, {"max_norm": 20.0}],
    ids=str,
)
def test_sgd_options_do_what_they_say(options: dict[str, float]) -> None:
    jacobian = 0.3 * ordinary(6, generator(1))
    gramian = jacobian @ jacobian.T
    found = sgd(gramian, 2.0, precision="float64", **options).weights
    torch.testing.assert_close(
        found, sgd_as_described(gramian, 2.0, **options), rtol=1e-9, atol=1e-12
    )
    assert not torch.equal(found, sgd(gramian, 2.0, precision="float64").weights)
    single = sgd(gramian.float(), 2.0, **options).weights
    assert torch.equal(single, sgd_as_described(gramian.float(), 2.0, **options))


def test_sgd_can_move_no_further_than_its_clipped_steps() -> None:
    # Momentum adds up 1 + ½ + ¼ … of a step of 0.1; 19 steps precede the last iterate that is
    # judged.
    reach = sum(0.1 * 2 * (1 - 0.5**step) for step in range(1, 20))
    assert reach == pytest.approx(3.6, abs=1e-5)
    for name, sample in SAMPLERS.items():
        for scale in (1e-8, 1e-3, 1.0, 1e3):
            jacobian = scale * sample(10, generator(2))
            found = sgd(jacobian @ jacobian.T, 2.0).weights
            assert (found - 0.1).norm() <= reach, name
    # The bound is reached where the solution is far away: w = 1e4 for one gradient of length 1e-3
    # ...
    gramian = torch.tensor([[1e-6]], dtype=torch.float64)
    assert newton(gramian, 2.0).weights.item() == pytest.approx(1e4, rel=1e-6)
    far = sgd(gramian, 2.0, max_norm=1e-3)
    assert far.weights.item() == pytest.approx(1 + 1e-3 * reach, rel=1e-5)
    # ... and its residual says that this is not the solution.
    assert not far.converged
    assert far.residual > 0.9


def test_sgd_converges_where_the_solution_is_near() -> None:
    gramian = torch.eye(3, dtype=torch.float64)
    found = sgd(gramian, 2.0, steps=200)
    assert found.converged
    torch.testing.assert_close(found.weights, torch.ones(3, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("solver", [sgd, least_squares])
@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_inactive_tasks_are_as_if_absent(solver: Callable[..., Solution], alpha: float) -> None:
    jacobian = ordinary(5, generator(3))
    active = torch.tensor([True, True, False, True, False])
    found = solver(jacobian @ jacobian.T, alpha, active).weights
    alone = solver(jacobian[active] @ jacobian[active].T, alpha).weights
    assert (found[~active] == 0).all()
    torch.testing.assert_close(found[active], alone, rtol=1e-9, atol=0)


@pytest.mark.parametrize("solver", [sgd, least_squares])
def test_leading_axes_dtypes_and_bad_elements(solver: Callable[..., Solution]) -> None:
    jacobians = torch.stack([ordinary(3, generator(seed)) for seed in range(4)]).float()
    gramians = (jacobians @ jacobians.mT).reshape(2, 2, 3, 3)
    gramians[1, 0, 0, 1] = torch.nan
    solution = solver(gramians, 2.0)
    assert solution.weights.shape == (2, 2, 3)
    assert solution.weights.dtype == torch.float32
    assert solution.weights.isnan().all(-1).tolist() == [[False, False], [True, False]]
    assert not solution.converged[1, 0]
    torch.testing.assert_close(solution.weights[1, 1], solver(gramians[1, 1], 2.0).weights)


def test_where_the_start_overflows_sgd_stays_and_least_squares_gives_up() -> None:
    gramian = torch.eye(10, dtype=torch.float64)  # (1/K)^(−1/α) exceeds every float
    stuck, refused = sgd(gramian, 1e-3), least_squares(gramian, 1e-3)
    assert (stuck.weights.float() == 0.1).all()
    assert refused.weights.isnan().all()
    assert not stuck.converged
    assert not refused.converged


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_least_squares_solves_easy_problems(alpha: float) -> None:
    jacobian = 0.5 * ordinary(5, generator(4))
    gramian = jacobian @ jacobian.T
    found = least_squares(gramian, alpha)
    torch.testing.assert_close(found.weights, newton(gramian, alpha).weights, rtol=1e-3, atol=0)


def test_least_squares_fails_where_it_is_said_to_and_reports_it() -> None:
    failures = 0
    for seed in range(6):
        jacobian = heterogeneous(10, generator(seed), decades=6)
        gramian = jacobian @ jacobian.T
        found, exact = least_squares(gramian, 5.0), newton(gramian, 5.0)
        cosine = torch.cosine_similarity(found.weights @ jacobian, exact.weights @ jacobian, dim=0)
        assert exact.residual < found.residual
        if cosine < np.cos(np.radians(5)):
            failures += 1
            assert not found.converged
    assert failures >= 3


def test_residual_by_hand() -> None:
    gramian = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    weights = torch.tensor([1.0, 4.0])
    # Mw = (6, 13), w^(1/2) = (1, 2): residuals 5 and 25
    assert relative_residual(gramian, weights, 2.0).item() == pytest.approx(25)
    active = torch.tensor([True, False])
    assert relative_residual(gramian, weights, 2.0, active).item() == pytest.approx(5)
    assert relative_residual(gramian, weights, 2.0, torch.zeros(2, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("solver", [newton, sgd, least_squares])
def test_solvers_leave_out_tasks_without_gradient_by_themselves(
    solver: Callable[..., Solution],
) -> None:
    jacobian = ordinary(4, generator(5))
    rest = solver(jacobian[1:] @ jacobian[1:].T, 2.0)
    jacobian[0] = 0
    found = solver(jacobian @ jacobian.T, 2.0)
    assert found.weights[0] == 0
    torch.testing.assert_close(found.weights[1:], rest.weights, rtol=1e-9, atol=0)
    assert found.converged == rest.converged
