"""MoCo against the paper's equations on the gradients themselves, hand algebra and the combination
it heads for.
"""

import math

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting import MoCo
from tests.support.errors import refused
from tests.unit.weighting.helpers import as_jacobian, as_vector
from tests.unit.weighting.samplers import SAMPLERS, STRATA, Sampler

ALL: dict[str, Sampler] = SAMPLERS | STRATA


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nearest(point: Tensor) -> Tensor:
    """On the simplex, by bisection of what all entries must fall by."""
    low, high = point.max() - 1, point.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (point - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (point - high).clamp(min=0)


def by_the_paper(course: Tensor, projection: str, rho: float) -> tuple[list[Tensor], Tensor]:
    """Directions for gradients `[calls, K, P]`, task after task, and the last weights."""
    tasks, size = course.shape[1:]
    tracked = [torch.zeros(size, dtype=torch.float64) for _ in range(tasks)]
    shares = torch.full((tasks,), 1 / tasks, dtype=torch.float64)
    found = []
    for call, gradients in enumerate(course, start=1):
        for i in range(tasks):
            tracked[i] = tracked[i] - 0.5 / call**0.3 * (tracked[i] - gradients[i])
        direction = sum(share * y for share, y in zip(shares, tracked, strict=True))
        slope = torch.stack([y @ direction for y in tracked]) + rho * shares
        moved = shares - 0.2 / call**0.7 * slope
        shares = nearest(moved) if projection == "simplex" else moved.exp() / moved.exp().sum()
        found.append(sum(share * y for share, y in zip(shares, tracked, strict=True)))
    return found, shares


@pytest.mark.parametrize(
    ("projection", "rho"), [("simplex", 0.0), ("simplex", 0.5), ("softmax", 0.1)]
)
@pytest.mark.parametrize("tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("name", ALL)
def test_the_papers_equations(name: str, tasks: int, projection: str, rho: float) -> None:
    course = torch.stack([ALL[name](tasks, generator(seed)) for seed in range(20)])
    # So long that steps neither stand still nor end in a corner.
    course = course / course.norm(dim=-1).amax().clamp(min=1e-300)
    method = MoCo(0.5, 0.3, 0.2, 0.7, rho, projection).init(tasks, template=as_jacobian(course[0]))
    expected, shares = by_the_paper(course, projection, rho)
    for gradients, direction in zip(course, expected, strict=True):
        found, diagnostics = method(as_jacobian(gradients))
        torch.testing.assert_close(as_vector(found), direction, rtol=0, atol=1e-12)
    torch.testing.assert_close(diagnostics["weights"], shares, rtol=0, atol=1e-12)


def test_two_tasks_by_hand() -> None:
    """λ = ½ − 0.1 (4·½, 1·½) = (0.3, 0.45), which lacks 0.125 each."""
    jacobian = {"a": torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)}
    method = MoCo(beta=1.0, beta_decay=0.0, gamma_decay=0.0).init(2, template=jacobian)
    direction, diagnostics = method(jacobian)
    torch.testing.assert_close(
        diagnostics["weights"], torch.tensor([0.425, 0.575], dtype=torch.float64)
    )
    torch.testing.assert_close(direction["a"], torch.tensor([0.85, 0.575], dtype=torch.float64))
    softmax = MoCo(beta=1.0, projection="softmax").init(2, template=jacobian)
    first = 1 / (1 + math.exp(0.15))
    torch.testing.assert_close(
        softmax(jacobian).diagnostics["weights"],
        torch.tensor([first, 1 - first], dtype=torch.float64),
    )


def test_averages_follow_by_beta() -> None:
    jacobian = {"a": torch.tensor([[4.0]])}
    method = MoCo(beta=0.5, beta_decay=1.0).init(1, template=jacobian)
    found = [float(method(jacobian).direction["a"]) for _ in range(3)]
    assert found == pytest.approx([2.0, 2.5, 2.75])  # 4 (1 − ½), 4 (1 − ½·¾), 4 (1 − ½·¾·⅚)


def test_constant_gradients_lead_to_the_combination_of_least_norm() -> None:
    """For orthogonal gradients its weights are as 1/‖g_i‖²; ρ pulls them towards equality."""
    jacobian = {"a": torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))}
    for rho, expected in [(0.0, [0.2, 0.8]), (2.0, [1 / 3, 2 / 3])]:
        method = MoCo(gamma_decay=0.0, rho=rho).init(2, template=jacobian)
        for _ in range(500):
            weights = method(jacobian).diagnostics["weights"]
        torch.testing.assert_close(
            weights, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    "option",
    [
        {"beta": 0},
        {"beta": 1.5},
        {"beta_decay": -1},
        {"gamma": 0},
        {"gamma": math.inf},
        {"gamma_decay": "1"},
        {"rho": -0.1},
        {"projection": "l1"},
    ],
    ids=str,
)
def test_bad_options(option: dict[str, object]) -> None:
    ((name, value),) = option.items()
    with refused(name, value):
        MoCo(**option)


def test_print_shows_what_it_is() -> None:
    assert "gamma=0.1, gamma_decay=0.5, rho=0, projection=softmax" in repr(
        MoCo(projection="softmax")
    )
