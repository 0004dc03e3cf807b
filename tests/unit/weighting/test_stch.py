"""STCH: autograd through the stated losses, another library's smooth maximum, the limits of μ."""

import pytest
import torch
from torch import Tensor
from torchjd import scalarization

from mtrl_fairgrad.weighting import STCH
from tests.support.errors import refused
from tests.unit.weighting.helpers import loss_course

WARMUP = 4


def warmed(mu: float, *shape: int) -> tuple[STCH, Tensor, Tensor]:
    """A method at the end of its warm-up, the nadir, and losses to come."""
    course = loss_course(WARMUP + 5, *shape)
    method = STCH(mu, WARMUP).init(shape[-1], shape[:-1])
    for losses in course[:WARMUP]:
        method(losses)
    return method, course[:WARMUP].mean(0), course[WARMUP:]


def test_the_warm_up_minimises_the_sum_of_logarithms() -> None:
    method, course = STCH(warmup=WARMUP).init(3), loss_course(WARMUP, 3)
    for call, losses in enumerate(course):
        losses.requires_grad_()
        (expected,) = torch.autograd.grad(losses.log().sum(), losses)
        found = method(losses)
        torch.testing.assert_close(found.weights, expected, rtol=1e-14, atol=0)
        torch.testing.assert_close(
            found.diagnostics["nadir"], course[: call + 1].mean(0), rtol=1e-14, atol=0
        )


@pytest.mark.parametrize("mu", [0.05, 1.0, 3.0])
def test_weights_are_the_gradient_of_the_stated_loss(mu: float) -> None:
    method, nadir, course = warmed(mu, 2, 3)
    for losses in course:
        losses.requires_grad_()
        smooth = 3 * mu * torch.logsumexp((losses / nadir).log() / mu, dim=-1)
        (expected,) = torch.autograd.grad(smooth.sum(), losses)
        found = method(losses)
        torch.testing.assert_close(found.weights, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.diagnostics["nadir"], nadir, rtol=1e-14, atol=0)


@pytest.mark.parametrize("mu", [0.05, 1.0])
def test_it_is_torchjds_stch_of_logarithms(mu: float) -> None:
    method, nadir, course = warmed(mu, 3)
    theirs = scalarization.STCH(mu, weights=torch.ones(3, dtype=torch.float64))
    for losses in course:
        losses.requires_grad_()
        (expected,) = torch.autograd.grad(3 * theirs((losses / nadir).log()), losses)
        torch.testing.assert_close(method(losses).weights, expected, rtol=1e-12, atol=0)


def test_a_sharp_maximum_has_one_task_and_a_smooth_one_all() -> None:
    sharp, nadir, course = warmed(1e-4, 3)
    worst = (course[0] / nadir).argmax()
    expected = torch.zeros(3, dtype=torch.float64)
    expected[worst] = 3 / course[0, worst]
    torch.testing.assert_close(sharp(course[0]).weights, expected)
    smooth, _, _ = warmed(1e8, 3)
    torch.testing.assert_close(smooth(course[0]).weights, 1 / course[0])


@pytest.mark.parametrize(
    "options",
    [
        {"mu": 0},
        {"warmup": 0},
        {"warmup": True},
    ],
)
def test_other_options_are_refused(options: dict[str, object]) -> None:
    ((name, value),) = options.items()
    with refused(name, value):
        STCH(**options)
