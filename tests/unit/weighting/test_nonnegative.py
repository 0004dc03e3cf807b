"""Quadratic programmes over non-negative variables against SciPy's active-set solver and their own
conditions.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

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
def test_many_at_once_without_looking_is_one_after_the_other(name: str) -> None:
    problems = [programmes(name, 6, seed) for seed in range(20)]
    cosines, pull = (torch.stack(part) for part in zip(*problems, strict=True))
    together, _ = minimise(cosines.reshape(4, 5, 6, 6), pull.reshape(4, 5, 6))
    for place, (matrix, vector) in enumerate(problems):
        alone, _ = minimise(matrix.numpy(), vector.numpy())
        torch.testing.assert_close(
            together.reshape(20, 6)[place], torch.from_numpy(alone), rtol=1e-6, atol=1e-9
        )


def test_any_guess_ends_at_the_same_solution() -> None:
    cosines, pull = programmes("conflicting", 8, 0)
    expected, free = minimise(cosines.numpy(), pull.numpy())
    generator = np.random.default_rng(0)
    for _ in range(20):
        found, proved = minimise(cosines.numpy(), pull.numpy(), generator.random(8) < 0.5)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert (proved == free).all()
