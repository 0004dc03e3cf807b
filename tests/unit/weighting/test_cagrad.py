"""CAGrad: hand algebra, SciPy's and TorchJD's optimum, the primal problem it solves, and its
limits.
"""

import math

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torchjd.aggregation import CAGrad as TorchJDCAGrad

from mtrl_fairgrad.weighting.cagrad import CAGrad
from mtrl_fairgrad.weighting.mgda import MGDA
from tests.support.errors import refused
from tests.unit.weighting.samplers import STRATA, ordinary


def direction(jacobian: Tensor, c: float, rescale: str = "none") -> Tensor:
    return CAGrad(c, rescale)(jacobian @ jacobian.T).weights @ jacobian


def angle(a: Tensor, b: Tensor) -> float:
    a, b = a / a.norm(), b / b.norm()
    return 2 * math.atan2(float((a - b).norm()), float((a + b).norm()))


def test_two_tasks_by_hand() -> None:
    """Gradients (1, 0) and (−1, 2): their mean is (0, 1), the first stands still, and all of c goes
    its way.
    """
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 2.0]], dtype=torch.float64)
    # Alone, the first would be followed until both progress alike: (0, 1) + c·(1, 0), progress c
    # and 2 − c.
    torch.testing.assert_close(
        direction(jacobian, 0.5), torch.tensor([0.5, 1.0], dtype=torch.float64)
    )
    # At c = 2 they meet: d = (0, 1) + 2·(cos t, sin t) with equal progress, d_0 = −d_0 + 2 d_1.
    found = direction(jacobian, 2.0)
    torch.testing.assert_close((found - torch.tensor([0.0, 1.0])).norm().item(), 2.0)
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("c", [0.2, 0.4, 0.9, 2.0])
@pytest.mark.parametrize(
    "name", ["ordinary", "aligned", "conflicting", "heterogeneous", "low_rank"]
)
def test_the_slowest_task_gets_the_most_it_can(name: str, c: float) -> None:
    """The primal problem, whose constraints any SciPy solver respects: nobody finds more for the
    slowest task.
    """
    jacobian = STRATA[name](4, torch.Generator().manual_seed(0))
    mean = jacobian.mean(0)
    found = direction(jacobian, c)
    if (
        name != "low_rank" or c < 1
    ):  # with c > 1 the radius reaches beyond 0, the best there is at stationary points
        torch.testing.assert_close((found - mean).norm(), c * mean.norm())
    slowest = float((jacobian @ found).min())
    norms, rows, centre = jacobian.norm(dim=1).max().item(), jacobian.numpy(), mean.numpy()
    best = minimize(
        lambda x: -x[-1] / norms,
        [*mean.numpy(), float((jacobian @ mean).min())],
        method="SLSQP",
        constraints=[
            {"type": "ineq", "fun": lambda x: (rows @ x[:-1] - x[-1]) / norms},
            {
                "type": "ineq",
                "fun": lambda x: (
                    (c**2 * (centre @ centre) - ((x[:-1] - centre) ** 2).sum()) / norms
                ),
            },
        ],
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    reach = c * float(mean.norm()) * norms
    # Beyond 0 only the ridge holds d back, on a length of √ridge.
    assert slowest >= -best.fun * norms - (1e-6 if c < 1 else 1e-4) * reach, best.message


@pytest.mark.parametrize("tasks", [2, 5, 10])
@pytest.mark.parametrize("name", ["ordinary", "aligned", "conflicting", "low_rank"])
def test_torchjd_finds_the_same_direction_or_a_worse_one(name: str, tasks: int) -> None:
    """Its interior-point solver stops some 1e-4 short, on the side that serves the slowest task
    less.
    """
    for seed in range(4):
        jacobian = STRATA[name](tasks, torch.Generator().manual_seed(seed))
        ours = direction(jacobian, 0.4)
        theirs = TorchJDCAGrad(0.4).gramian_weighting(jacobian @ jacobian.T) @ jacobian
        assert angle(ours, theirs) < 1e-3
        rounding = 1e-7 * jacobian.norm(dim=1).max() * ours.norm()
        assert (
            angle(ours, theirs) < 1e-4
            or (jacobian @ ours).min() >= (jacobian @ theirs).min() - rounding
        )


@pytest.mark.parametrize("tasks", [1, 2, 10, 50])
@pytest.mark.parametrize("name", STRATA)
@pytest.mark.parametrize("c", [0.1, 0.4, 0.99])
def test_converges_everywhere(name: str, tasks: int, c: float) -> None:
    for seed in range(5):
        jacobian = STRATA[name](tasks, torch.Generator().manual_seed(seed))
        found = CAGrad(c)(jacobian @ jacobian.T)
        assert found.diagnostics["radius_error"].abs() < 1e-8
        assert found.weights.isfinite().all()


def test_limits() -> None:
    jacobian = ordinary(5, torch.Generator().manual_seed(3))
    torch.testing.assert_close(direction(jacobian, 0.0), jacobian.mean(0))
    shortest = MGDA()(jacobian @ jacobian.T).weights @ jacobian
    assert angle(direction(jacobian, 1e6), shortest) < 1e-5


def test_rescaling() -> None:
    jacobian = ordinary(3, torch.Generator().manual_seed(1))
    plain = direction(jacobian, 0.4)
    torch.testing.assert_close(direction(jacobian, 0.4, "linear"), plain / 1.4)
    torch.testing.assert_close(direction(jacobian, 0.4, "squared"), plain / 1.16)


def test_gradients_that_cancel_leave_nothing_to_do() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    found = CAGrad(0.4)(jacobian @ jacobian.T)
    assert (found.weights @ jacobian).norm() == 0 and found.diagnostics["radius_error"] == 0


@pytest.mark.parametrize("c", [-0.1, math.nan, math.inf, "0.4", True])
def test_a_radius_that_is_none_is_refused(c: object) -> None:
    with refused("c", c):
        CAGrad(c)  # pyright: ignore[reportArgumentType]
