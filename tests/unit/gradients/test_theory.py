"""What the paper proves, on problems where its assumptions hold.

Theorem 1: on L-smooth losses whose gradients are independent away from stationary points, FairGrad
with the step size `η = Σ w_i^(−1/α) / (L K Σ w_i^(1−1/α))` never raises the mean loss, and comes to
a Pareto stationary point, where the smallest eigenvalue of `GᵀG` is 0. Proposition 1: the α-fair
loss transformation keeps the Pareto front.
"""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad import FairGrad, backward, make_method
from mtrl_fairgrad.supervised.benchmarks.toy_problem import STARTS, distance_from_front
from mtrl_fairgrad.supervised.benchmarks.toy_problem import losses as toy_losses
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair, transform


class Bowls:
    """K quadratic losses with minima apart: `l_i = ½ (x − c_i)ᵀ A_i (x − c_i)`."""

    def __init__(self, tasks: int, dimension: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        factors = torch.randn(tasks, dimension, dimension, generator=generator, dtype=torch.float64)
        self.curvature = factors @ factors.mT / dimension + 0.1 * torch.eye(
            dimension, dtype=torch.float64
        )
        self.minima = torch.randn(tasks, dimension, generator=generator, dtype=torch.float64)
        self.smoothness = float(torch.linalg.eigvalsh(self.curvature).max())
        self.start = 3 * torch.randn(dimension, generator=generator, dtype=torch.float64)

    def losses(self, x: Tensor) -> Tensor:
        away = x - self.minima
        return 0.5 * torch.einsum("ki,kij,kj->k", away, self.curvature, away)

    def gradients(self, x: Tensor) -> Tensor:
        return torch.einsum("kij,kj->ki", self.curvature, x - self.minima)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(("tasks", "dimension"), [(2, 2), (3, 5), (5, 8)])
def test_theorem_one(tasks: int, dimension: int, alpha: float) -> None:
    problem = Bowls(tasks, dimension, seed=tasks)
    method = FairGrad(alpha=alpha)
    x, means, smallest = problem.start, [], []
    for _ in range(4000):
        rows = problem.gradients(x)
        gramian = rows @ rows.T
        means.append(float(problem.losses(x).mean()))
        smallest.append(float(torch.linalg.eigvalsh(gramian)[0]))
        if smallest[-1] <= 1e-7 * float(gramian.diagonal().max()):
            break
        weights = method(gramian).weights
        ratio = weights.pow(-1 / alpha).sum() / weights.pow(1 - 1 / alpha).sum()
        x = x - float(ratio) / (problem.smoothness * tasks) * (weights @ rows)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(means))
    assert smallest[-1] <= 1e-4 * smallest[0], "the smallest eigenvalue must come down to 0"
    # There, what is left of the gradients cancels in a convex combination: the point is Pareto
    # stationary.
    rows = problem.gradients(x)
    shortest = make_method("mgda")(rows @ rows.T).weights @ rows
    assert shortest.norm() <= 1e-2 * rows.norm(dim=1).max()


def undominated(losses: Tensor) -> Tensor:
    """Which of the points no other one surpasses in one loss without losing in the other; losses
    `[N, 2]`.
    """
    no_worse = (losses[None] <= losses[:, None]).all(-1)
    better = (losses[None] < losses[:, None]).any(-1)
    return ~(no_worse & better).any(1)


SHIFT = torch.tensor([3.0, 30.0], dtype=torch.float64)
"""Makes the toy problem's losses positive, as the transformation needs them."""


@pytest.mark.parametrize("alpha", [-2.0, 0.5, 0.9])
def test_proposition_one(alpha: float) -> None:
    axis = torch.linspace(-10, 10, 61, dtype=torch.float64)
    losses = toy_losses(torch.cartesian_prod(axis, axis)) + SHIFT
    assert (losses > 0).all()
    front = undominated(losses)
    assert 1 < int(front.sum()) < 100
    assert torch.equal(undominated(transform(losses, alpha)), front)


@pytest.mark.exhaustive
@pytest.mark.parametrize("alpha", [-1.0, 0.5])
@pytest.mark.parametrize("start", STARTS)
def test_descent_on_transformed_losses_ends_on_the_same_front(
    start: tuple[float, float], alpha: float
) -> None:
    point = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([point], lr=0.02)
    method = alpha_fair(FairGrad(alpha=2), alpha)
    for _ in range(4000):
        optimizer.zero_grad()
        losses = toy_losses(point) + SHIFT
        backward(losses, method, shared=[point])
        optimizer.step()
        if (
            float(distance_from_front(point.detach())) < 0.02
        ):  # and it stays: every direction from here harms one of the tasks
            return
    pytest.fail(
        f"ended at {point.tolist()}, {float(distance_from_front(point.detach())):.3f} off the front"
    )
