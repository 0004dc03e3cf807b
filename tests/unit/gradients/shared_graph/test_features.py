"""Gradients combined at a representation: by hand, in one pass through the encoder, and what is
refused.
"""

import pytest
import torch

from mtrl_fairgrad import (
    LS,
    Convention,
    FairGrad,
    JacobianAggregation,
    backward,
    contract,
    gramian,
    jacobian_like,
)
from mtrl_fairgrad.weighting import Aggregate
from tests.support.multi_head_model import Heads, K, assert_same

EXACT = {"rtol": 1e-10, "atol": 1e-10}


class Strongest(JacobianAggregation):
    """In every coordinate the entry that is largest in absolute value."""

    name = "strongest"

    def forward(self, jacobian, noise=None):
        picks = {name: rows.abs().argmax(0, keepdim=True) for name, rows in jacobian.items()}
        return Aggregate(
            {name: rows.gather(0, picks[name])[0] for name, rows in jacobian.items()}, {}
        )


def by_hand(method, model, split):
    z = model.encoder(model.inputs)
    parts = z.split(split, dim=1)
    losses = model.errors([head(torch.cat(parts, dim=1)) for head in model.heads])
    rows = [torch.autograd.grad(loss, parts, retain_graph=True) for loss in losses]
    jacobian = {str(i): torch.stack(column) for i, column in enumerate(zip(*rows, strict=True))}
    if isinstance(method, JacobianAggregation):
        direction = method(jacobian).direction
    else:
        direction = contract(method(gramian(jacobian)).weights, jacobian)
    return torch.autograd.grad(parts, model.groups["shared"], list(direction.values()))


@pytest.mark.parametrize("method", [FairGrad(alpha=2), Strongest()])
@pytest.mark.parametrize("split", [6, 2])
def test_it_equals_the_definition(method, split):
    model = Heads()
    expected = by_hand(method, model, split)
    parts = model.encoder(model.inputs).split(split, dim=1)
    losses = model.errors([head(torch.cat(parts, dim=1)) for head in model.heads])
    backward(losses, method, **model.groups, representation=parts if split == 2 else parts[0])
    assert_same(model.grads()[:4], expected, **EXACT)
    plain = Heads()
    backward(plain.losses(), FairGrad(alpha=2), **plain.groups)
    assert_same(model.grads()[4:], plain.grads()[4:], **EXACT)
    assert not torch.allclose(
        model.grads()[0], plain.grads()[0]
    )  # another method than without representation


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2), Strongest()])
def test_one_pass_through_the_encoder(method):
    model = Heads()
    counted = model.count_encoder_passes()
    z, outputs = model(model.inputs)
    backward(model.errors(outputs), method, **model.groups, representation=z)
    assert len(counted) == 1


def test_the_gramian_is_the_representations():
    model = Heads()
    z, outputs = model(model.inputs)
    losses = model.errors(outputs)
    rows = torch.stack([torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in losses])
    report = backward(losses, FairGrad(alpha=2), **model.groups, representation=z)
    torch.testing.assert_close(report["gramian"], gramian({"z": rows}), **EXACT)


def test_a_loss_weighting_does_not_need_it():
    model, plain = Heads(), Heads()
    z, outputs = model(model.inputs)
    backward(model.errors(outputs), LS("mean"), **model.groups, representation=z)
    backward(plain.losses(), LS("mean"), **plain.groups)
    assert_same(model.grads(), plain.grads())


def test_conventions_shape_the_direction_at_the_parameters():
    plain, shaped = Heads(), Heads()
    for model, convention in (
        (plain, Convention()),
        (shaped, Convention("weighted", "tasks", 0.1)),
    ):
        z, outputs = model(model.inputs)
        report = backward(
            model.errors(outputs),
            FairGrad(alpha=2),
            **model.groups,
            representation=z,
            convention=convention,
        )
    length = torch.cat([part.flatten() for part in plain.grads()[:4]]).norm()
    expected = [0.1 / length * part for part in plain.grads()[:4]]
    heads = [report["weights"][i // 2] * part for i, part in enumerate(plain.grads()[4:])]
    assert_same(shaped.grads(), expected + heads)


def test_own_parameters_may_act_before_the_representation():
    embeddings = torch.ones(K, 4, dtype=torch.float64, requires_grad=True)
    model = Heads()
    z = model.encoder(model.inputs[:K] * embeddings)
    losses = [head(row).square().sum() for head, row in zip(model.heads, z, strict=True)]
    backward(
        losses,
        FairGrad(alpha=2),
        shared=model.encoder.parameters(),
        own=[embeddings],
        representation=z,
    )
    assert embeddings.grad.abs().sum(1).all() and model.encoder[0].weight.grad.any()


def test_its_template_is_jacobian_like_of_the_representation():
    model = Heads()
    z = model.encoder(model.inputs)
    assert {name: rows.shape for name, rows in jacobian_like([z], K).items()} == {
        "0": (K, *z.shape)
    }


class Beside(torch.nn.Module):
    """Tensors that are no representation of their losses."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 3)
        self.second = torch.nn.Linear(3, 3)
        self.inputs = torch.ones(2, 3)

    def of(self, what):
        a = self.first(self.inputs)
        b = self.second(a)
        losses = [b.sum(), b.square().sum()]
        return {
            "detached": (losses, b.detach()),
            "leaf": (losses, b.detach().requires_grad_()),
            "unrelated": (losses, self.second(a)),
            "nothing": (losses, []),
            "too early": (losses, a),
            "skipped": ([(b + a).sum(), b.sum()], b),
            "nested": ([(b + a).sum(), b.sum()], [a, b]),
        }[what]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("detached", "representation 0 has no graph"),
        ("leaf", "representation 0 has no graph"),
        ("unrelated", "representation 0 reaches no loss"),
        ("nothing", "representation is empty"),
        ("too early", "shared parameter 2 acts on a loss outside the representation"),
        ("skipped", "shared parameter 0 acts on a loss outside the representation"),
        ("nested", "representation 1 is computed from another"),
    ],
)
@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2)])
def test_what_is_no_representation_is_refused(what, message, method):
    model = Beside()
    losses, z = model.of(what)
    with pytest.raises(ValueError, match=message):
        backward(losses, method, shared=model.parameters(), representation=z)
    assert all(parameter.grad is None for parameter in model.parameters())
