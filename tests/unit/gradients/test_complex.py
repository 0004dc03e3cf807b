"""A complex parameter is combined as the pair of its real and imaginary part."""

import pytest
import torch

from mtrl_fairgrad import (
    Accumulator,
    Convention,
    FairGrad,
    alpha_fair,
    backward,
    combine,
    jacobian_like,
    make_method,
    method_names,
)

K = 3
METHODS = [name for name in method_names() if name != "stl"]
TARGETS = torch.randn(K, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Model:
    """Losses of complex parameters, or of the same numbers as real pairs."""

    def __init__(self, pairs):
        generator = torch.Generator().manual_seed(1)
        shared = torch.randn(4, 2, generator=generator, dtype=torch.float64)
        own = torch.randn(K, 2, generator=generator, dtype=torch.float64)
        self.pairs = pairs
        wrap = (lambda pair: pair.clone()) if pairs else torch.view_as_complex
        self.shared = wrap(shared.clone()).requires_grad_()
        self.own = [wrap(row.clone()).requires_grad_() for row in own]

    def losses(self, scale=1.0):
        view = torch.view_as_complex if self.pairs else torch.Tensor.clone
        self.features = view(self.shared) * (1 + 2j)
        targets = torch.view_as_complex(TARGETS)
        return [
            scale * (i + 1) * (self.features * view(own) - targets[i]).abs().square().sum()
            for i, own in enumerate(self.own)
        ]

    def grads(self):
        found = [self.shared.grad, *(own.grad for own in self.own)]
        return found if self.pairs else [torch.view_as_real(each) for each in found]


def both(take):
    """The gradients that `take` leaves for complex parameters and for real pairs."""
    models = Model(pairs=False), Model(pairs=True)
    for model in models:
        take(model)
    return [model.grads() for model in models]


def make(name):
    return make_method(name, gamma=1e-3) if name == "moco" else make_method(name)


@pytest.mark.parametrize(
    ("name", "loss_alpha"),
    [*((name, 0.0) for name in METHODS), *((name, 0.5) for name in ("fairgrad", "graddrop", "ls"))],
)
def test_every_method_combines_complex_parameters_as_real_pairs(name, loss_alpha):
    def take(model):
        method = alpha_fair(make(name), loss_alpha) if loss_alpha else make(name)
        backward(
            model.losses(), method, shared=[model.shared], own=model.own,
            noise=torch.Generator().manual_seed(0), convention=Convention("weighted", "tasks", 1.0),
        )  # fmt: skip

    torch.testing.assert_close(*both(take))


@pytest.mark.parametrize("name", ["fairgrad", "graddrop", "ls"])
@pytest.mark.parametrize("size", [1, 3])
def test_so_do_micro_batches_and_passes_of_several_tasks(name, size):
    def take(model):
        accumulator = Accumulator(shared=[model.shared], own=model.own, tasks_per_pass=size)
        for part in (0.25, 0.75):
            accumulator.add(model.losses(part))
        accumulator.backward(make(name), torch.Generator().manual_seed(0))

    torch.testing.assert_close(*both(take))


@pytest.mark.parametrize("name", ["fairgrad", "graddrop", "ls"])
def test_a_complex_representation_is_combined_in_real_inner_products(name):
    model = Model(pairs=False)
    losses = model.losses()
    z = model.features
    rows = torch.stack([torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in losses])
    real = torch.view_as_real(rows).flatten(1)
    method = make(name)
    found = backward(
        losses, method, shared=[model.shared], own=model.own, representation=z,
        noise=None if name != "graddrop" else torch.ones(8, dtype=torch.float64),
    )  # fmt: skip
    if name == "graddrop":  # P > 1 nowhere: what is negative stays
        direction = real.clamp(max=0).sum(0)
    else:
        weights = torch.ones(K, dtype=torch.float64)
        if name == "fairgrad":
            torch.testing.assert_close(found["gramian"], real @ real.T)
            weights = FairGrad()(real @ real.T).weights
        direction = weights @ real
    expected = torch.view_as_complex(direction.view(4, 2)) * (1 - 2j)
    torch.testing.assert_close(model.shared.grad, expected)


@pytest.mark.parametrize("name", METHODS)
def test_combine_takes_complex_parameters(name):
    targets = torch.view_as_complex(TARGETS).expand(2, K, 4)
    start = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(shared, context, own, target):
        w = shared["w"] if shared["w"].is_complex() else torch.view_as_complex(shared["w"])
        return (w - target).abs().square().sum(), ()

    found, pairs = (
        combine(make(name), loss, {"w": w}, targets, convention=Convention(max_norm=0.5))
        for w in (torch.view_as_complex(start), start)
    )
    assert found.direction["w"].is_complex()
    torch.testing.assert_close(torch.view_as_real(found.direction["w"]), pairs.direction["w"])


def test_templates_of_complex_parameters_are_real():
    w = torch.zeros(3, dtype=torch.cfloat, requires_grad=True)
    assert jacobian_like([w], 2)["0"].shape == (2, 3, 2)
    method = make("graddrop").init(2, template={"w": torch.zeros(2, 3, dtype=torch.cfloat)})
    with pytest.raises(ValueError, match="view_as_real"):
        method({"w": torch.zeros(2, 3, dtype=torch.cfloat)}, torch.zeros(6))
