"""UW: the stated loss, trained by autograd and PyTorch's Adam."""

import pytest
import torch
from torchjd import scalarization

from mtrl_fairgrad.weighting import UW
from tests.support.errors import refused
from tests.unit.weighting.helpers import loss_course


@pytest.mark.parametrize("initial", [0.0, -1.5])
def test_it_trains_s_as_a_joint_optimiser_would(initial: float) -> None:
    method = UW(learning_rate=0.1, initial=initial).init(2, (3,))
    s = torch.full((3, 2), initial, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([s], lr=0.1)
    for losses in loss_course(30, 3, 2):
        losses.requires_grad_()
        optimizer.zero_grad()
        (0.5 * (torch.exp(-s) * losses + s)).sum().backward()
        found = method(losses)
        torch.testing.assert_close(found.weights, losses.grad, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            found.diagnostics["log_variance"], s.detach(), rtol=1e-12, atol=1e-14
        )
        optimizer.step()


def test_it_is_torchjds_uw() -> None:
    method, theirs = UW().init(3), scalarization.UW(3).double()
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.025)
    for losses in loss_course(30, 3):
        losses.requires_grad_()
        optimizer.zero_grad()
        theirs(losses).backward()
        torch.testing.assert_close(method(losses).weights, losses.grad, rtol=1e-12, atol=0)
        optimizer.step()


def test_weights_come_to_rest_at_half_the_inverse_losses() -> None:
    method, losses = UW(learning_rate=0.1).init(2), torch.tensor([0.2, 5.0], dtype=torch.float64)
    for _ in range(500):
        weights = method(losses).weights
    torch.testing.assert_close(weights, 0.5 / losses, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0},
        {"learning_rate": "x"},
        {"initial": float("nan")},
    ],
)
def test_other_options_are_refused(options: dict[str, object]) -> None:
    ((name, value),) = options.items()
    with refused(name, value):
        UW(**options)
