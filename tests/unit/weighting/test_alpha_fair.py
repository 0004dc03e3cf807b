"""The α-fair loss transformation: the chain rule against autograd, its two ends, and what it
refuses.
"""

import math

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad import (
    Convention,
    FairGrad,
    LossWeighting,
    Method,
    backward,
    jacobian_like,
    make_method,
    method_names,
)
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair, transform
from tests.support.errors import refused

ALPHAS = [-3.0, -0.5, 0.0, 0.5, 0.9]


def losses(parameter: Tensor) -> Tensor:
    targets = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    return (parameter - targets).square().sum(1) * torch.tensor([0.1, 1.0, 7.0])


def leaf() -> Tensor:
    return torch.tensor([0.3, -0.4, 1.0, 0.2], dtype=torch.float64, requires_grad=True)


def ready(method: Method) -> tuple[Method, Tensor | None]:
    """The method for three tasks and one parameter, with what it draws."""
    method.init(3, template=jacobian_like([leaf()], 3))
    return method, method.draw([torch.Generator().manual_seed(0)])


def gradient(method: Method, values: Tensor, parameter: Tensor) -> Tensor:
    method, noise = ready(method)
    backward(values, method, shared=[parameter], noise=noise)
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("alpha", ALPHAS)
def test_transform_is_equation_five_and_differentiable(alpha: float) -> None:
    values = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64, requires_grad=True)
    found = transform(values, alpha)
    torch.testing.assert_close(found, values ** (1 - alpha) / (1 - alpha))
    (slope,) = torch.autograd.grad(found.sum(), values)
    torch.testing.assert_close(slope, values.detach() ** -alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", method_names())
def test_chain_rule_is_differentiating_the_transformed_losses(name: str, alpha: float) -> None:
    a, b = leaf(), leaf()
    wrapped = gradient(alpha_fair(make_method(name), alpha), losses(a), a)
    direct = gradient(make_method(name), transform(losses(b), alpha), b)
    torch.testing.assert_close(wrapped, direct, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", method_names())
def test_without_fairness_it_is_the_method_itself(name: str) -> None:
    a, b = leaf(), leaf()
    torch.testing.assert_close(
        gradient(alpha_fair(make_method(name), 0.0), losses(a), a),
        gradient(make_method(name), losses(b), b),
        rtol=1e-12,
        atol=0,
    )


def test_alpha_towards_one_is_si_for_linear_scalarisation() -> None:
    a, b = leaf(), leaf()
    wrapped = gradient(alpha_fair(make_method("ls"), 1 - 1e-9), losses(a), a)
    torch.testing.assert_close(
        wrapped, gradient(make_method("si"), losses(b), b), rtol=1e-7, atol=0
    )


def test_alpha_towards_minus_infinity_minimises_the_largest_loss() -> None:
    parameter = leaf()
    method = alpha_fair(make_method("ls"), -300.0)
    weights = backward(losses(parameter) / 10, method, shared=[parameter])["weights"]
    assert (
        weights.argmax() == losses(parameter).argmax()
        and weights.max() > 1e3 * weights.sort().values[-2]
    )


@pytest.mark.parametrize("name", ["ls", "uw", "famo", "fairgrad", "pcgrad", "moco", "dwa"])
def test_it_trains_saves_and_resets_as_the_method_does(name: str) -> None:
    def steps(method: Method, noise: Tensor | None, parameter: Tensor, count: int) -> None:
        for _ in range(count):
            parameter.grad = None
            backward(losses(parameter), method, shared=[parameter], noise=noise)
            with torch.no_grad():
                assert parameter.grad is not None
                parameter -= 1e-3 * parameter.grad
            method.after_step(losses(parameter).detach())

    method, noise = ready(alpha_fair(make_method(name), 0.5))
    parameter = leaf()
    steps(method, noise, parameter, 3)
    other, _ = ready(alpha_fair(make_method(name), 0.5))
    other.load_state_dict(method.state_dict())
    copy = parameter.detach().clone().requires_grad_()
    steps(method, noise, parameter, 3)
    steps(other, noise, copy, 3)
    assert torch.equal(parameter, copy)
    method.reset()
    fresh, _ = ready(alpha_fair(make_method(name), 0.5))
    for key, value in fresh.state_dict().items():
        assert torch.equal(method.state_dict()[key], value), key


def test_it_needs_positive_losses_and_says_which_is_not() -> None:
    parameter = leaf()
    values = losses(parameter) - torch.tensor([0.0, 0.0, 100.0])
    with pytest.raises(ValueError, match="task 2's loss"):
        backward(values, alpha_fair(FairGrad(alpha=2), 0.5), shared=[parameter])
    assert parameter.grad is None
    stacked = torch.tensor([[1.0, 2.0], [1.0, -2.0]])
    method = alpha_fair(make_method("ls"), 0.5)
    assert isinstance(method, LossWeighting)
    assert method(stacked).weights.isnan().tolist() == [[False, False], [True, True]]
    with pytest.raises(ValueError, match="needs the losses"):
        alpha_fair(FairGrad(alpha=2), 0.5)(torch.eye(2))


@pytest.mark.parametrize("alpha", [1.0, 2.0, math.nan, -math.inf, "0.5"])
def test_alpha_must_be_below_one(alpha: float) -> None:
    with refused("loss_alpha", alpha):
        alpha_fair(make_method("ls"), alpha)
    with pytest.raises(ValueError, match="loss_alpha"):
        transform(torch.ones(2), alpha)


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Identity "):
        alpha_fair(torch.nn.Identity(), 0.5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("own", ["plain", "weighted", "weighted_losses"])
@pytest.mark.parametrize("name", ["ls", "uw", "fairgrad", "cagrad", "moco", "graddrop"])
def test_own_parameters_feel_the_transformation_too(name: str, own: str) -> None:
    """A head receives what it would from transformed losses under the same convention."""
    received = []
    for wrap in (True, False):
        parameter, heads = (
            leaf(),
            [torch.ones((), dtype=torch.float64, requires_grad=True) for _ in range(3)],
        )
        values = [value * head for value, head in zip(losses(parameter), heads, strict=True)]
        method, noise = ready(alpha_fair(make_method(name), 0.5) if wrap else make_method(name))
        seen = values if wrap else [transform(value, 0.5) for value in values]
        backward(
            seen, method, shared=[parameter], own=heads, noise=noise, convention=Convention(own=own)
        )
        received.append(torch.stack([head.grad for head in heads if head.grad is not None]))
    torch.testing.assert_close(*received, rtol=1e-6, atol=1e-9)
