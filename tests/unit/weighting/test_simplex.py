"""The projection onto the simplex against its definition: brute force, optimality conditions,
another solver.
"""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from mtrl_fairgrad.weighting import simplex


def points(count: int, tasks: int, spread: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, tasks, generator=generator, dtype=torch.float64)


def nearest_of_all_faces(point: Tensor) -> Tensor:
    """The nearest point of the affine hull of every face, if it lies on the simplex; the best of
    them.
    """
    candidates = []
    for size in range(1, len(point) + 1):
        for face in map(list, itertools.combinations(range(len(point)), size)):
            candidate = torch.zeros_like(point)
            candidate[face] = point[face] - (point[face].sum() - 1) / size
            if (candidate >= 0).all():
                candidates.append(candidate)
    return min(candidates, key=lambda candidate: float((candidate - point).norm()))


@pytest.mark.parametrize("spread", [1e-3, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("tasks", [1, 2, 3, 6])
def test_brute_force(tasks: int, spread: float) -> None:
    for point in points(20, tasks, spread):
        torch.testing.assert_close(
            simplex.project(point), nearest_of_all_faces(point), rtol=0, atol=1e-14
        )


def test_another_solver() -> None:
    for point in points(5, 5).numpy():
        found = minimize(
            lambda x, point=point: ((x - point) ** 2).sum(),
            np.full(5, 0.2),
            jac=lambda x, point=point: 2 * (x - point),
            bounds=[(0, None)] * 5,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(
            simplex.project(torch.from_numpy(point)).numpy(), found.x, atol=1e-7
        )


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("tasks", [2, 10, 300])
def test_optimality(tasks: int, scale: float) -> None:
    """On the simplex, and `point − nearest` is largest, and the same, exactly where the nearest is
    positive.
    """
    given = scale * points(50, tasks, seed=1)
    found = simplex.project(given)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(50, dtype=torch.float64))
    residual = given - found
    largest = residual.amax(-1, keepdim=True)
    size = 1e-13 * max(scale, 1.0)
    assert ((largest - residual)[found > 0] <= size).all()
    assert (residual <= largest).all()


@pytest.mark.parametrize(
    ("point", "nearest"),
    [
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([1.0, 1.0], [0.5, 0.5]),
        ([5.0, 1.0, -3.0], [1.0, 0.0, 0.0]),
        ([0.9, 0.5, 0.0], [0.7, 0.3, 0.0]),
        ([-7.0], [1.0]),
    ],
)
def test_by_hand(point: list[float], nearest: list[float]) -> None:
    torch.testing.assert_close(simplex.project(torch.tensor(point)), torch.tensor(nearest))


def test_adding_a_number_to_all_changes_nothing() -> None:
    given = points(20, 4)
    torch.testing.assert_close(
        simplex.project(given + 1e6), simplex.project(given), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
def test_batches_and_faults(fault: float) -> None:
    given = points(6, 4).reshape(2, 3, 4)
    expected = torch.stack([simplex.project(point) for point in given.reshape(6, 4)]).reshape(
        2, 3, 4
    )
    assert torch.equal(simplex.project(given), expected)
    given[1, 2, 0] = fault
    found = simplex.project(given)
    assert found[1, 2].isnan().all()
    assert torch.equal(found.reshape(6, 4)[:5], expected.reshape(6, 4)[:5])


@pytest.mark.parametrize(
    ("dtype", "answer"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_dtypes(dtype: torch.dtype, answer: torch.dtype) -> None:
    given = points(3, 4).to(dtype)
    found = simplex.project(given)
    assert found.dtype == answer
    torch.testing.assert_close(found.double(), simplex.project(given.double()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3, 4)], ids=str)
def test_sums_of_beginnings_are_running_sums(shape: tuple[int, ...]) -> None:
    given = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
    assert torch.equal(simplex.sums_of_beginnings(given), given.cumsum(-1))
