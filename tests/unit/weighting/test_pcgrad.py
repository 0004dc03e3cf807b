"""PCGrad against the paper's algorithm on the gradients themselves, hand algebra and TorchJD."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import PCGrad as TorchJDPCGrad

from mtrl_fairgrad.weighting import PCGrad
from tests.support.errors import refused
from tests.unit.weighting.samplers import SAMPLERS, STRATA, Sampler

ALL: dict[str, Sampler] = SAMPLERS | STRATA


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orders(tasks: int, seed: int) -> Tensor:
    return PCGrad().init(tasks).draw([generator(seed)])


def by_the_paper(gradients: Tensor, order: Tensor) -> Tensor:
    """Algorithm 1, one pair after the other."""
    total = torch.zeros_like(gradients[0])
    for i in range(len(gradients)):
        own = gradients[i].clone()
        for j in order[i].tolist():
            product = own @ gradients[j]
            if j != i and product < 0:
                own = own - product / gradients[j].norm() ** 2 * gradients[j]
        total = total + own
    return total


@pytest.mark.parametrize("tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("name", ALL)
def test_the_papers_algorithm(name: str, tasks: int) -> None:
    for seed in range(5):
        gradients, order = ALL[name](tasks, generator(seed)), orders(tasks, seed)
        expected = by_the_paper(gradients, order)
        found = PCGrad()(gradients @ gradients.T, noise=order).weights @ gradients
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-11 * float(gradients.norm(dim=1).max())
        )


def test_two_tasks_by_hand() -> None:
    """(1, 0) and (−1, 1) become (½, ½) and (0, 1)."""
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    gramian, order = gradients @ gradients.T, orders(2, 0)
    weights, diagnostics = PCGrad()(gramian, noise=order)
    torch.testing.assert_close(weights @ gradients, torch.tensor([0.5, 1.5], dtype=torch.float64))
    assert diagnostics["changed"] == 1
    torch.testing.assert_close(diagnostics["min_progress"], torch.tensor(0.5, dtype=torch.float64))
    mean = PCGrad(reduction="mean")(gramian, noise=order).weights
    torch.testing.assert_close(mean, weights / 2)


@pytest.mark.parametrize("name", ALL)
def test_two_tasks_as_torchjd(name: str) -> None:
    for seed in range(5):
        gradients = ALL[name](2, generator(seed))
        if (gradients == 0).all(1).any():
            continue  # it divides by zero
        gramian = gradients @ gradients.T
        theirs = TorchJDPCGrad().gramian_weighting(gramian) @ gradients
        found = PCGrad()(gramian, noise=orders(2, seed)).weights @ gradients
        torch.testing.assert_close(
            found, theirs, rtol=0, atol=1e-12 * float(gradients.norm(dim=1).max())
        )


def test_two_tasks_never_conflict_with_the_direction() -> None:
    for seed in range(20):
        gradients = SAMPLERS["heterogeneous"](2, generator(seed))
        gramian = gradients @ gradients.T
        assert (
            PCGrad()(gramian, noise=orders(2, seed)).diagnostics["min_progress"]
            >= -1e-12 * gramian.max()
        )


def test_without_conflict_it_is_the_sum() -> None:
    gradients = torch.rand(5, 8, generator=generator(0), dtype=torch.float64)
    weights, diagnostics = PCGrad()(gradients @ gradients.T, noise=orders(5, 0))
    torch.testing.assert_close(weights, torch.ones(5, dtype=torch.float64))
    assert diagnostics["changed"] == 0


def test_every_task_goes_by_its_own_order() -> None:
    """(1, 1) off (−1, 0) is (0, 1), and that off (1, −2) is (0.4, 0.2); the other way (1.2, 0.6),
    then (0, 0.6).
    """
    gradients = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [1.0, -2.0]], dtype=torch.float64)
    found = []
    for order in [(0, 1, 2), (0, 2, 1)]:
        noise = torch.tensor([order, (1, 0, 2), (2, 0, 1)])
        found.append(PCGrad()(gradients @ gradients.T, noise=noise).weights @ gradients)
        torch.testing.assert_close(found[-1], by_the_paper(gradients, noise))
    torch.testing.assert_close(found[0] - found[1], torch.tensor([0.4, -0.4], dtype=torch.float64))


def test_tasks_without_gradient_have_no_effect() -> None:
    gradients, order = STRATA["ordinary"](4, generator(0)), orders(4, 1)
    gradients[2] = 0
    weights, diagnostics = PCGrad()(gradients @ gradients.T, noise=order)
    assert weights[2] == 0
    others = [0, 1, 3]
    rank = torch.tensor([0, 1, -1, 2])
    without = rank[order[others]]
    without = without[without >= 0].reshape(3, 3)
    alone = PCGrad()(gradients[others] @ gradients[others].T, noise=without)
    torch.testing.assert_close(weights[others], alone.weights)
    assert diagnostics["changed"] * 12 == pytest.approx(float(alone.diagnostics["changed"]) * 6)
    nothing = PCGrad()(torch.zeros(3, 3), noise=orders(3, 0))
    assert torch.equal(nothing.weights, torch.zeros(3))
    assert nothing.diagnostics["changed"] == 0 and nothing.diagnostics["min_progress"] == 0


def test_orders_are_uniform_permutations_of_each_stream() -> None:
    method = PCGrad().init(3, (2, 1))
    drawn = method.draw([generator(0), generator(1)])
    assert drawn.shape == (2, 1, 3, 3)
    assert drawn.dtype == torch.int64
    assert torch.equal(drawn[1, 0], orders(3, 1))
    streams, alone = generator(0), PCGrad().init(3)
    seen = Counter(tuple(row) for _ in range(1000) for row in alone.draw([streams]).tolist())
    assert len(seen) == math.factorial(3)
    for count in seen.values():  # 500 each, a standard deviation of 20
        assert abs(count - 500) < 100


@pytest.mark.parametrize("reduction", ["average", "", None, 1])
def test_other_reductions_are_refused(reduction: object) -> None:
    with refused("reduction", reduction):
        PCGrad(reduction)


def test_missing_and_misshapen_orders_are_refused() -> None:
    with pytest.raises(ValueError, match="pcgrad is random: "):
        PCGrad()(torch.eye(3))
    with pytest.raises(
        ValueError, match=r"noise of shape \(2, 2\) is not allowed: give orders .* \(3, 3\)"
    ):
        PCGrad()(torch.eye(3), noise=orders(2, 0))
    with pytest.raises(ValueError, match=r"^pcgrad .*init"):
        PCGrad().draw([generator(0)])


def test_print_shows_what_it_is() -> None:
    assert "reduction=mean" in repr(PCGrad("mean"))
