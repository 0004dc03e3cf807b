"""DB-MTL against the paper's equations on the gradients themselves, and hand algebra."""

import math

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting import DBMTL
from tests.support.errors import refused
from tests.unit.weighting.helpers import as_jacobian, as_vector, loss_course
from tests.unit.weighting.samplers import SAMPLERS, STRATA, Sampler

ALL: dict[str, Sampler] = SAMPLERS | STRATA
CALLS = 20


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_the_paper(course: Tensor, losses: Tensor) -> list[Tensor]:
    """Directions for gradients `[calls, K, P]` and losses `[calls, K]`, task after task."""
    averages = torch.zeros_like(course[0])
    found = []
    for call, (gradients, values) in enumerate(zip(course, losses, strict=True), start=1):
        beta = 0.8 / call**0.4
        for i in range(len(gradients)):
            averages[i] = beta * averages[i] + (1 - beta) * gradients[i] / (values[i] + 1e-8)
        largest = max(row.norm() for row in averages)
        found.append(sum(largest * row / row.norm() if row.norm() > 0 else row for row in averages))
    return found


@pytest.mark.parametrize("tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("name", ALL)
def test_the_papers_equations(name: str, tasks: int) -> None:
    course = torch.stack([ALL[name](tasks, generator(seed)) for seed in range(CALLS)])
    losses = loss_course(CALLS, tasks)
    method = DBMTL(beta=0.8, beta_decay=0.4).init(tasks, template=as_jacobian(course[0]))
    size = float((course.norm(dim=-1) / losses).max())
    for gradients, values, direction in zip(
        course, losses, by_the_paper(course, losses), strict=True
    ):
        found, diagnostics = method(as_jacobian(gradients), values)
        torch.testing.assert_close(as_vector(found), direction, rtol=0, atol=1e-12 * size)
        lengths = diagnostics["weights"] * diagnostics["norms"]
        moving = diagnostics["norms"] > 0
        expected = diagnostics["norms"].max().expand(int(moving.sum()))
        torch.testing.assert_close(lengths[moving], expected)


def test_two_tasks_by_hand() -> None:
    """Logarithms' gradients (1, 0) and (0, 3), of which a tenth; then half of that and half of
    them.
    """
    jacobian = {"a": torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)}
    losses = torch.tensor([2.0, 1.0], dtype=torch.float64)
    method = DBMTL(beta=0.9).init(2, template=jacobian)
    direction, diagnostics = method(jacobian, losses)
    torch.testing.assert_close(direction["a"], torch.tensor([0.3, 0.3], dtype=torch.float64))
    torch.testing.assert_close(diagnostics["norms"], torch.tensor([0.1, 0.3], dtype=torch.float64))
    torch.testing.assert_close(
        diagnostics["weights"], torch.tensor([3.0, 1.0], dtype=torch.float64)
    )
    halves = DBMTL(beta=0.5, beta_decay=0.0).init(2, template=jacobian)
    found = [float(halves(jacobian, losses).direction["a"][0]) for _ in range(2)]
    assert found == pytest.approx([1.5, 2.25])


def test_gradients_of_the_logarithms_come_from_autograd() -> None:
    point = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    losses = torch.stack([(point**2).sum(), (point - 3).abs().sum()])
    rows, logarithms = (
        torch.stack([torch.autograd.grad(x, point, retain_graph=True)[0] for x in values])
        for values in (losses, losses.log())
    )
    method = DBMTL(beta=0.0).init(2, template={"a": rows})
    expected = logarithms.norm(dim=1).max() * torch.nn.functional.normalize(logarithms, dim=1).sum(
        0
    )
    torch.testing.assert_close(method({"a": rows}, losses).direction["a"], expected)


def test_a_factor_on_a_loss_changes_nothing() -> None:
    course = torch.stack([ALL["ordinary"](3, generator(seed)) for seed in range(5)])
    losses, factors = loss_course(5, 3), torch.tensor([1.0, 1e4, 1e-2], dtype=torch.float64)
    plain, scaled = (DBMTL().init(3, template=as_jacobian(course[0])) for _ in range(2))
    for gradients, values in zip(course, losses, strict=True):
        expected = as_vector(plain(as_jacobian(gradients), values).direction)
        found = as_vector(
            scaled(as_jacobian(gradients * factors[:, None]), values * factors).direction
        )
        # Losses of about 1e-2 are not far enough from 1e-8 for more digits.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fault", [-1e-9, -1.0, torch.nan, torch.inf])
def test_a_negative_loss_spoils_its_element_and_call_alone(fault: float) -> None:
    course = torch.stack([ALL["ordinary"](3, generator(seed)) for seed in range(8)]).reshape(
        4, 2, 3, 6
    )
    losses = loss_course(4, 2, 3)
    method, other = (DBMTL().init(3, (2,), as_jacobian(course[0])) for _ in range(2))
    alone = DBMTL().init(3, template=as_jacobian(course[0, 0]))
    for call in range(4):
        faulty = losses[call].clone()
        if call == 1:
            faulty[0, 2] = fault
        found = as_vector(method(as_jacobian(course[call]), faulty).direction, 1)
        clean = as_vector(other(as_jacobian(course[call]), losses[call]).direction, 1)
        assert torch.equal(found[1], clean[1])
        if call == 1:
            assert found[0].isnan().all()
        else:
            expected = as_vector(alone(as_jacobian(course[call, 0]), losses[call, 0]).direction)
            torch.testing.assert_close(found[0], expected)


def test_tasks_without_gradient_give_nothing() -> None:
    jacobian = {"a": torch.tensor([[0.0, 0.0], [0.0, 3.0]])}
    method = DBMTL(beta=0.0).init(2, template=jacobian)
    direction, diagnostics = method(jacobian, torch.ones(2))
    assert torch.equal(direction["a"], torch.tensor([0.0, 3.0]))
    assert torch.equal(diagnostics["weights"], torch.tensor([0.0, 1.0]))
    nothing = {"a": torch.zeros(2, 2)}
    assert torch.equal(method(nothing, torch.ones(2)).direction["a"], torch.zeros(2))


def test_missing_and_misshapen_losses_are_refused() -> None:
    jacobian = {"a": torch.ones(2, 3)}
    method = DBMTL().init(2, template=jacobian)
    assert method.needs_positive_losses
    with pytest.raises(ValueError, match=r"db_mtl divides gradients by their losses: pass losses="):
        method(jacobian)
    with pytest.raises(ValueError, match=r"for losses of shape \(2,\) but got \(3,\)"):
        method(jacobian, torch.ones(3))


@pytest.mark.parametrize(
    "option",
    [{"beta": 1}, {"beta": -0.1}, {"beta": math.nan}, {"beta_decay": -1}, {"beta_decay": None}],
    ids=str,
)
def test_bad_options(option: dict[str, object]) -> None:
    ((name, value),) = option.items()
    with refused(name, value):
        DBMTL(**option)


def test_print_shows_what_it_is() -> None:
    assert "beta=0.9, beta_decay=0.5" in repr(DBMTL())
