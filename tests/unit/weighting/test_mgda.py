"""The min-norm point: hand algebra, a brute-force optimum, its own optimality, and TorchJD's
approximation.
"""

import itertools

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting.mgda import MGDA
from tests.support.errors import refused
from tests.unit.weighting.samplers import STRATA, ordinary


def weights(jacobian: Tensor, **options: str) -> Tensor:
    return MGDA(**options)(jacobian @ jacobian.T).weights


def rows(*gradients: list[float]) -> Tensor:
    return torch.tensor(gradients, dtype=torch.float64)


def test_two_tasks_by_hand() -> None:
    """Orthogonal gradients weigh by inverse squares; a gradient that the other one surpasses gets
    everything.
    """
    torch.testing.assert_close(
        weights(rows([1, 0], [0, 2])), torch.tensor([0.8, 0.2], dtype=torch.float64)
    )
    torch.testing.assert_close(
        weights(rows([1, 0], [2, 1])), torch.tensor([1.0, 0.0], dtype=torch.float64)
    )
    torch.testing.assert_close(
        weights(rows([3, 0], [-1, 0])), torch.tensor([0.25, 0.75], dtype=torch.float64)
    )


def test_three_tasks_by_brute_force() -> None:
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    simplex = torch.tensor(
        [(a, b, 1 - a - b) for a, b in itertools.product(grid, grid) if a + b <= 1 + 1e-12]
    )
    for seed in range(10):
        jacobian = ordinary(3, torch.Generator().manual_seed(seed))
        norms = (simplex @ jacobian).norm(dim=1)
        found = weights(jacobian)
        assert (found @ jacobian).norm() <= norms.min() + 1e-12
        assert (found - simplex[norms.argmin()]).abs().max() < 0.02


@pytest.mark.parametrize("tasks", [2, 3, 10, 50])
@pytest.mark.parametrize("name", STRATA)
def test_no_task_falls_below_the_length_of_the_direction(name: str, tasks: int) -> None:
    """`g_iᵀd ≥ ‖d‖²`, with equality where w_i > 0, holds for the min-norm point only."""
    for seed in range(5):
        jacobian = STRATA[name](tasks, torch.Generator().manual_seed(seed))
        found = weights(jacobian)
        assert (found >= 0).all()
        torch.testing.assert_close(found.sum(), torch.ones((), dtype=torch.float64))
        direction = found @ jacobian
        # Where the weights are positive, the longest gradient says how exactly a length near 0 can
        # be known.
        size = (found.sqrt() * jacobian.norm(dim=1)).max() ** 2
        excess = jacobian @ direction - direction.square().sum()
        assert (excess >= -1e-7 * size).all()
        assert ((found * excess).abs() <= 1e-7 * size).all()


def test_tasks_without_gradient_make_the_direction_vanish() -> None:
    found = weights(rows([1, 0], [0, 0], [0, 0]))
    torch.testing.assert_close(found, torch.tensor([0, 0.5, 0.5], dtype=torch.float64))


def test_normalised_gradients() -> None:
    jacobian = rows([1, 0], [0, 2])
    gramian, losses = jacobian @ jacobian.T, torch.tensor([1.0, 4.0], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(MGDA("l2")(gramian).weights, half)
    # Divided by the losses the gradients are as long as 1 and ½; by both, 1 and ¼.
    expected = {"none": [0.8, 0.2], "loss": [0.2, 0.8], "loss+": [1 / 17, 16 / 17]}
    for normalize, found in expected.items():
        torch.testing.assert_close(
            MGDA(normalize)(gramian, losses=losses).weights,
            torch.tensor(found, dtype=torch.float64),
        )


def test_normalising_by_losses_needs_positive_ones() -> None:
    gramian = torch.eye(2)
    with pytest.raises(ValueError, match="normalize=loss needs the losses"):
        MGDA("loss")(gramian)
    assert MGDA("loss+")(gramian, losses=torch.tensor([1.0, -1.0])).weights.isnan().all()
    with refused("normalize", "l1"):
        MGDA("l1")
