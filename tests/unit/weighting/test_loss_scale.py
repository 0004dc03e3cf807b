"""Which methods' directions turn when all losses are multiplied by the same factor."""

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting import GramianWeighting, LossWeighting, make_method, method_names

DEPENDENT: dict[str, dict[str, object]] = {"moco": {}, "uw": {}, "fairgrad": {"solver": "sgd"}}
"""Methods, with options, whose direction depends on the scale of the losses."""


def last_direction(name: str, options: dict[str, object], scale: float) -> Tensor:
    """The direction of the third call, with losses and gradients multiplied by `scale`."""
    generator = torch.Generator().manual_seed(0)
    jacobians = scale * torch.randn(3, 4, 9, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([[3.0], [1.0], [0.3], [0.1]], dtype=torch.float64)
    losses = scale * (torch.rand(3, 4, generator=generator, dtype=torch.float64) + 0.5)
    template = {"weight": jacobians[0]}
    method = make_method(name, **options).init(4, (), template)
    draws = torch.Generator().manual_seed(1)
    direction = torch.zeros(9)
    for rows, values in zip(jacobians * lengths, losses, strict=True):
        noise = method.draw([draws])
        optional = method.accepted(losses=values, noise=noise)
        if isinstance(method, LossWeighting):
            optional.pop("losses", None)
        jacobian = {"weight": rows}
        observed = method.observe(values, jacobian, 0)
        result = method(observed, **optional)
        direction = method.direction(result, observed, jacobian).direction["weight"]
        if method.looks_after_step:
            method.after_step(torch.tensor([0.9, 0.8, 0.95, 0.7]) * values)
    return direction / direction.norm()


def turns(name: str, options: dict[str, object]) -> bool:
    plain, *scaled = (last_direction(name, options, scale) for scale in (1.0, 0.01, 100.0))
    return max(float((other - plain).norm()) for other in scaled) > 1e-4


@pytest.mark.parametrize("name", method_names())
def test_the_scale_of_the_losses_turns_only_the_directions_that_are_said_to(name: str) -> None:
    assert turns(name, DEPENDENT.get(name, {})) == (name in DEPENDENT)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("fairgrad", {"alpha": alpha}) for alpha in (0.0, 0.5, 1.0, 2.0, 5.0)),
        ("nash_mtl", {"normalize": "frobenius"}),
    ],
)
def test_exact_solutions_do_not_turn(name: str, options: dict[str, object]) -> None:
    assert isinstance(make_method(name, **options), GramianWeighting)
    assert not turns(name, options)
