"""Quadratic programmes over non-negative variables against SciPy's active-set solver and their own
conditions.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from mtrl_fairgrad.weighting import make_method
from mtrl_fairgrad.weighting.solvers import nonnegative
from mtrl_fairgrad.weighting.solvers.nonnegative import minimise
from tests.unit.weighting.samplers import STRATA


def programmes(name: str, tasks: int, seed: int) -> tuple[Tensor, Tensor]:
    """A cosine matrix with a small ridge, and right sides of mixed signs and sizes."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(STRATA[name](tasks, generator), dim=1)
    pull = torch.randn(tasks, generator=generator, dtype=torch.float64)
    pull = pull * 10 ** torch.randn(tasks, generator=generator, dtype=torch.float64)
    return rows @ rows.T + 1e-8 * torch.eye(tasks, dtype=torch.float64), pull


@pytest.mark.parametrize("tasks", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("name", STRATA)
def test_agrees_with_nonnegative_least_squares(name: str, tasks: int) -> None:
    for seed in range(5):
        cosines, pull = programmes(name, tasks, seed)
        u, _ = minimise(cosines.numpy(), pull.numpy())
        factor = np.linalg.cholesky(cosines.numpy())
        theirs, _ = nnls(factor.T, np.linalg.solve(factor, pull.numpy()), maxiter=1000)

        def value(x: np.ndarray, cosines: Tensor = cosines, pull: Tensor = pull) -> float:
            return float(0.5 * x @ cosines.numpy() @ x - pull.numpy() @ x)

        assert (u >= 0).all()
        # The value of a programme with a condition number of 1e8 is known to as many digits less.
        assert value(u) <= value(theirs) + 1e-7 * abs(value(theirs))


@pytest.mark.parametrize("name", STRATA)
def test_many_at_once_is_one_after_the_other(name: str) -> None:
    problems = [programmes(name, 6, seed) for seed in range(20)]
    cosines, pull = (torch.stack(part).numpy() for part in zip(*problems, strict=True))
    together, _ = minimise(cosines.reshape(4, 5, 6, 6), pull.reshape(4, 5, 6))
    for place, (matrix, vector) in enumerate(problems):
        alone, _ = minimise(matrix.numpy(), vector.numpy())
        np.testing.assert_allclose(together.reshape(20, 6)[place], alone, rtol=1e-6, atol=1e-9)


def test_any_guess_ends_at_the_same_solution() -> None:
    cosines, pull = programmes("conflicting", 8, 0)
    expected, free = minimise(cosines.numpy(), pull.numpy())
    generator = np.random.default_rng(0)
    for _ in range(20):
        found, proved = minimise(cosines.numpy(), pull.numpy(), generator.random(8) < 0.5)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert (proved == free).all()


@pytest.mark.parametrize(("tasks", "dimensions"), [(20, 10), (40, 20), (40, 38), (30, 2), (50, 1)])
def test_more_gradients_than_dimensions_meet_the_conditions_exactly(
    tasks: int, dimensions: int
) -> None:
    """`Cu − q` is 0 where u is positive and not negative elsewhere, up to rounding."""
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(tasks, dimensions, generator=generator, dtype=torch.float64)
        rows[tasks // 2 :] += seed
        rows = torch.nn.functional.normalize(rows, dim=1)
        cosines = (rows @ rows.T + 1e-8 * torch.eye(tasks, dtype=torch.float64)).numpy()
        linear = np.where(np.eye(tasks) == 0, -cosines, -1.0)  # UPGrad's programmes
        u, free = minimise(cosines[None], linear)
        slack = u @ cosines - linear
        size = u @ abs(cosines) + abs(linear)
        assert (u >= 0).all() and not u[~free].any()
        assert (slack >= -1e-14 * size).all() and (abs(slack[u > 0]) <= 1e-14 * size[u > 0]).all()


@pytest.mark.parametrize(("tasks", "dimensions"), [(40, 20), (60, 30)])
def test_upgrad_solves_few_systems_for_each_task(
    tasks: int, dimensions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exchanges that do not help are given up; all tasks at once used to take 100 of them."""
    solved, solve = [], nonnegative.solve

    def counted(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        solved.append(len(matrices))
        return solve(matrices, vectors)

    monkeypatch.setattr(nonnegative, "solve", counted)
    rows = torch.randn(tasks, dimensions, generator=torch.Generator().manual_seed(0))
    assert make_method("upgrad")(rows @ rows.T).weights.isfinite().all()
    assert sum(solved) <= 8 * tasks
