"""GradVac against the paper's algorithm on the gradients themselves, hand algebra and TorchJD."""

import math

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import GradVac as TorchJDGradVac

from mtrl_fairgrad.weighting import GradVac, PCGrad
from tests.support.errors import refused
from tests.unit.weighting.samplers import SAMPLERS, STRATA, Sampler

ALL: dict[str, Sampler] = SAMPLERS | STRATA


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_the_paper(gradients: Tensor, order: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Algorithm 1, one pair after the other; moves the targets. Gradients reduced to rounding
    errors meet nobody.
    """
    total = torch.zeros_like(gradients[0])
    for i in range(len(gradients)):
        own = gradients[i].clone()
        for j in order[i].tolist():
            lengths = own.norm(), gradients[j].norm()
            if j == i or lengths[1] == 0 or lengths[0] <= 1.5e-7 * gradients[i].norm():
                continue
            cosine = (own @ gradients[j] / lengths[0] / lengths[1]).clamp(-1, 1)
            target = targets[i, j].clone()
            if cosine < target:
                vaccine = target * (1 - cosine**2).sqrt() - cosine * (1 - target**2).sqrt()
                own = (
                    own
                    + lengths[0] * vaccine / (lengths[1] * (1 - target**2).sqrt()) * gradients[j]
                )
            targets[i, j] = (1 - beta) * target + beta * cosine
        total = total + own
    return total


@pytest.mark.parametrize("beta", [0.01, 0.5])
@pytest.mark.parametrize("tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("name", ALL)
def test_the_papers_algorithm(name: str, tasks: int, beta: float) -> None:
    method, stream = GradVac(beta).init(tasks), generator(tasks)
    targets = torch.zeros(tasks, tasks, dtype=torch.float64)
    for seed in range(6):
        gradients, order = ALL[name](tasks, generator(seed)), method.draw([stream])
        expected = by_the_paper(gradients, order, targets, beta)
        found = method(gradients @ gradients.T, noise=order).weights @ gradients
        # A difference of 1e-16 between cosines near 1 is one of 1e-8 between angles.
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-6 * float(gradients.norm(dim=1).max())
        )
        torch.testing.assert_close(method.targets, targets, rtol=0, atol=1e-7)


def test_the_first_call_is_pcgrad() -> None:
    for name, sampler in ALL.items():
        gradients = sampler(5, generator(0))
        method = GradVac().init(5)
        order = method.draw([generator(1)])
        found = method(gradients @ gradients.T, noise=order).weights
        expected = PCGrad()(gradients @ gradients.T, noise=order).weights
        size = 1e-6 * float(gradients.norm(dim=1).max())
        torch.testing.assert_close(
            found @ gradients, expected @ gradients, rtol=0, atol=size, msg=name
        )


def angled(cosine: float, first: float = 1.0, second: float = 1.0) -> Tensor:
    """Two gradients of these norms at this cosine."""
    return torch.tensor(
        [[first, 0.0], [second * cosine, second * math.sqrt(1 - cosine**2)]], dtype=torch.float64
    )


def test_two_tasks_by_hand() -> None:
    """At a usual cosine of 0.6, (2, 0) and (0, 1) turn until that is their cosine with the other,
    as it was.
    """
    method = GradVac(beta=1.0).init(2)
    order = method.draw([generator(0)])
    friendly, orthogonal = angled(0.6), angled(0.0, first=2.0)
    weights, diagnostics = method(friendly @ friendly.T, noise=order)
    torch.testing.assert_close(weights, torch.ones(2, dtype=torch.float64))
    assert diagnostics["changed"] == 0
    torch.testing.assert_close(
        method.targets, torch.tensor([[0, 0.6], [0.6, 0]], dtype=torch.float64)
    )
    # Length times cotangent 0.75 along the other: (2, 0) + 1.5 (0, 1) and (0, 1) + 0.75 (1, 0).
    weights, diagnostics = method(orthogonal @ orthogonal.T, noise=order)
    torch.testing.assert_close(weights @ orthogonal, torch.tensor([2.75, 2.5], dtype=torch.float64))
    assert diagnostics["changed"] == 1
    torch.testing.assert_close(method.targets, torch.zeros(2, 2, dtype=torch.float64))


def test_mean_is_the_sum_shared() -> None:
    gradients = ALL["conflicting"](4, generator(0))
    order = PCGrad().init(4).draw([generator(0)])
    found = [
        GradVac(reduction=r).init(4)(gradients @ gradients.T, noise=order).weights
        for r in ("sum", "mean")
    ]
    torch.testing.assert_close(found[1], found[0] / 4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_two_tasks_as_torchjd(name: str) -> None:
    ours, theirs = GradVac(beta=0.3).init(2), TorchJDGradVac(beta=0.3, eps=0.0)
    for seed in range(8):
        gradients = SAMPLERS[name](2, generator(seed))
        gramian = gradients @ gradients.T
        found = ours(gramian, noise=ours.draw([generator(seed)])).weights @ gradients
        expected = theirs.gramian_weighting(gramian) @ gradients
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-6 * float(gradients.norm(dim=1).max())
        )


@pytest.mark.parametrize("after", [1.0, 0.5, -1.0])
def test_a_target_of_one_asks_for_something_finite(after: float) -> None:
    method = GradVac(beta=1.0).init(2)
    order = method.draw([generator(0)])
    for _ in range(2):
        alike = angled(1.0)
        torch.testing.assert_close(
            method(alike @ alike.T, noise=order).weights, torch.ones(2, dtype=torch.float64)
        )
    apart = angled(after)
    weights = method(apart @ apart.T, noise=order).weights
    assert weights.isfinite().all()
    assert (weights.abs() < 1000).all()


def test_tasks_without_gradient_have_no_effect_and_keep_their_targets() -> None:
    method = GradVac(beta=0.5).init(3)
    method.targets.fill_(0.3)
    gradients = ALL["conflicting"](3, generator(0))
    gradients[1] = 0
    order = method.draw([generator(0)])
    weights = method(gradients @ gradients.T, noise=order).weights
    assert weights[1] == 0
    kept = torch.full((3,), 0.3, dtype=torch.float64)
    assert torch.equal(method.targets[1], kept) and torch.equal(method.targets[:, 1], kept)
    assert method.targets[0, 2] != 0.3 and method.targets[2, 0] != 0.3
    two = GradVac(beta=0.5).init(2)
    two.targets.fill_(0.3)
    others = gradients[[0, 2]]
    alone = two(others @ others.T, noise=two.draw([generator(0)])).weights
    torch.testing.assert_close(weights[[0, 2]], alone)


@pytest.mark.parametrize("beta", [0, -0.1, 1.1, math.nan, True, "0.5"])
def test_bad_beta(beta: object) -> None:
    with refused("beta", beta):
        GradVac(beta)


def test_bad_reduction() -> None:
    with refused("reduction", "max"):
        GradVac(reduction="max")


def test_missing_init_and_orders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^gradvac .*init\(tasks=3\)"):
        GradVac()(torch.eye(3))
    with pytest.raises(ValueError, match="gradvac is random: "):
        GradVac().init(3)(torch.eye(3))
    with pytest.raises(ValueError, match=r"for losses of shape \(3,\) but got \(2,\)"):
        GradVac().init(3)(torch.eye(2))


def test_print_shows_what_it_is() -> None:
    assert "beta=0.5, reduction=sum" in repr(GradVac(0.5))
