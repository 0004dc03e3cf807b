"""Twenty thousand updates with every method, on losses that stay positive and on losses that change
sign.

Four tasks pull eight parameters to four places, with noise in every loss and gradient: a stand-in
for the critics, whose losses are positive, and, less a constant, for the actor, whose losses become
negative as it learns.
"""

import pytest
import torch

from mtrl_fairgrad import GramianWeighting, LossWeighting, contract, gramian, method_names
from mtrl_fairgrad.training.factory import make_methods
from tests.support.tiny_runs import composed

LANES, TASKS, UPDATES = 2, 4, 20_000
SHAPES = {"weight": (2, 3), "bias": (2,)}
SIZE = 8
CRITIC, ACTOR = 0.05, -10.0
"""What the losses are at their minima; at the start they are 26 to 250 larger."""
NOISE = 0.3
"""Standard deviation of where a task's minimum seems to be."""


class Quadratics:
    """`l_i = ½ (θ − c_i)ᵀ A_i (θ − c_i) + constant` of two lanes with K tasks each, seen with noise
    added to c.
    """

    def __init__(self, constants):
        generator = torch.Generator().manual_seed(0)
        roots = torch.randn(LANES, TASKS, SIZE, SIZE, generator=generator) / SIZE**0.5
        scales = torch.tensor([0.3, 1.0, 1.0, 3.0]).view(TASKS, 1, 1)
        self.curvatures = scales * (roots @ roots.mT + 0.1 * torch.eye(SIZE))
        self.minima = torch.randn(LANES, TASKS, SIZE, generator=generator)
        self.constants = torch.tensor(constants).view(LANES, 1)

    def __call__(self, parameters, displacements):
        """Losses `[2, K]` and gradients `[2, K, 8]` at parameters `[2, 8]`."""
        away = parameters.unsqueeze(-2) - self.minima - displacements
        gradients = (self.curvatures @ away.unsqueeze(-1)).squeeze(-1)
        return 0.5 * (away * gradients).sum(-1) + self.constants, gradients


def direction(method, losses, gradients, noise):
    """What `combine` makes of a method's answer, `[2, 8]`."""
    parts = zip(SHAPES.items(), gradients.split((6, 2), dim=-1), strict=True)
    jacobian = {name: rows.reshape(LANES, TASKS, *shape) for (name, shape), rows in parts}
    if isinstance(method, LossWeighting):
        combined = contract(method(losses, **method.accepted(noise=noise)).weights, jacobian)
    elif isinstance(method, GramianWeighting):
        combined = contract(
            method(gramian(jacobian, 1), **method.accepted(losses=losses, noise=noise)).weights,
            jacobian,
        )
    else:
        combined = method(jacobian, **method.accepted(losses=losses, noise=noise)).direction
    return torch.cat([part.reshape(LANES, -1) for part in combined.values()], dim=-1)


def train(method, constants):
    """Adam along the method's directions; returns the losses without noise, before and after."""
    problem = Quadratics(constants)
    method.init(
        TASKS, (LANES,), {name: torch.empty(LANES, TASKS, *shape) for name, shape in SHAPES.items()}
    )
    generators = [torch.Generator().manual_seed(lane) for lane in range(LANES)]
    parameters = torch.full((LANES, SIZE), 4.0)
    optimizer = torch.optim.Adam([parameters], lr=3e-3, fused=True)
    none = torch.zeros(LANES, TASKS, SIZE)
    before = problem(parameters, none)[0]
    for update in range(UPDATES):
        if update % 1000 == 0:  # drawing one by one would take longer than everything else
            drawn = NOISE * torch.stack(
                [torch.randn(1000, TASKS, SIZE, generator=one) for one in generators], dim=1
            )
        losses, gradients = problem(parameters, drawn[update % 1000])
        parameters.grad = direction(method, losses, gradients, method.draw(generators))
        optimizer.step()
        if method.looks_after_step:
            method.after_step(problem(parameters, drawn[update % 1000])[0])
    assert parameters.isfinite().all()
    assert all(
        value.isfinite().all()
        for value in method.state_dict().values()
        if value.is_floating_point()
    )
    return before, problem(parameters, none)[0]


@pytest.mark.parametrize("name", method_names())
@torch.no_grad()
def test_twenty_thousand_updates_end_better_than_they_began(name):
    critic, actor = make_methods(composed(f"method={name}"))
    # Two seeds side by side, one the critics' and one the actor's; where the actor falls back to
    # another method, whose own test this is then, both are the critics'.
    alike = type(actor) is type(critic)
    before, after = train(critic, (CRITIC, ACTOR if alike else CRITIC))
    # The start lies beyond all minima, so whichever compromise a method seeks, even one task's
    # minimum alone, every task must end below where it began.
    assert (after < before).all(), (before, after)
    assert not alike or ((before[1] > 0).all() and (after[1] < 0).any()), (
        "the test means to see losses change sign"
    )
