"""SI: the gradient of the sum of logarithms."""

import torch

from mtrl_fairgrad.weighting import SI
from tests.unit.weighting.helpers import loss_course


def test_weights_are_the_gradient_of_the_sum_of_logarithms() -> None:
    losses = loss_course(5, 2, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(losses.log().sum(), losses)
    found = SI()(losses)
    torch.testing.assert_close(found.weights, gradient, rtol=1e-15, atol=0)
    assert found.diagnostics == {}


def test_it_needs_no_init_and_keeps_nothing() -> None:
    assert torch.equal(SI()(torch.tensor([0.5, 4.0])).weights, torch.tensor([2.0, 0.25]))
    assert SI().state_dict() == {}
