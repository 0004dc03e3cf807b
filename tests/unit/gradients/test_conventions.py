"""Conventions do to own gradients and to the direction what their documentation says, in `combine`
and `backward`.
"""

import pytest
import torch

from mtrl_fairgrad import (
    CONVENTIONS,
    LS,
    Convention,
    FairGrad,
    JacobianAggregation,
    NashMTL,
    backward,
    combine,
    task_gradients,
)
from mtrl_fairgrad.weighting import Aggregate
from tests.support.errors import refused
from tests.support.multi_head_model import Fixed, Heads, assert_same
from tests.unit.gradients.test_per_task import call_on

S, K, B = 2, 3, 5
OWN = ("plain", "weighted", "weighted_losses")


class Last(JacobianAggregation):
    """The last task's gradient, reporting weights or not."""

    name = "last"

    def __init__(self, reports):
        super().__init__()
        self.reports = reports

    def forward(self, jacobian, losses=None, noise=None):
        weights = torch.tensor([0.0, 0.0, 1.0], dtype=losses.dtype).expand(losses.shape)
        axis = losses.ndim - 1
        return Aggregate(
            {name: rows.select(axis, K - 1) for name, rows in jacobian.items()},
            {"weights": weights} if self.reports else {},
        )


def loss(shared, context, own, inputs, targets):
    error = torch.tanh(inputs @ shared["weight"] + shared["bias"]) @ own["head"] - targets
    return context["size"] * error.square().mean(), ()


def make_problem():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shared = {"weight": normal(S, 4, 6), "bias": normal(S, 6)}
    sizes = {
        "size": torch.tensor([0.01, 10.0], dtype=torch.float64)
    }  # one seed's direction short, the other's long
    return shared, sizes, {"head": normal(S, K, 6)}, normal(S, K, B, 4), normal(S, K, B)


def norm(direction):
    return (
        torch.stack([part.flatten(1).square().sum(1) for part in direction.values()]).sum(0).sqrt()
    )


METHODS = {
    "ls": LS(),
    "mean": LS("mean"),
    "some": Fixed(0.5, 0, 2),
    "fairgrad": FairGrad(alpha=2),
    "unweighted": Last(False),
    "weighing": Last(True),
}


def expected_factors(name, own, weights):
    """What the documentation says of own gradients."""
    if name in ("ls", "mean", "some"):
        return (weights != 0).double() if own == "plain" else weights
    return weights if own == "weighted" and name != "unweighted" else torch.ones_like(weights)


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("name", METHODS)
def test_own_gradients_in_combine(name, own):
    problem = make_problem()
    plain = call_on(problem, task_gradients, loss).own["head"]
    found = call_on(problem, combine, METHODS[name], loss, convention=Convention(own=own))
    factors = expected_factors(
        name, own, found.diagnostics.get("weights", torch.ones(S, K, dtype=torch.float64))
    )
    torch.testing.assert_close(
        found.own["head"], factors[..., None] * plain, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("name", METHODS)
def test_own_gradients_in_backward(name, own):
    model = Heads()
    rows = model.rows()
    report = backward(model.losses(), METHODS[name], **model.groups, convention=Convention(own=own))
    factors = expected_factors(name, own, report.get("weights", torch.ones(K, dtype=torch.float64)))
    expected = [
        sum(w * g for w, g in zip(factors, column, strict=True))
        for column in zip(*rows, strict=True)
    ]
    assert_same(model.grads()[4:], expected[4:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 1e-42])
def test_a_vanishing_weight_divides_nothing_by_zero(weight):
    problem = [
        {n: v.float() for n, v in part.items()} if isinstance(part, dict) else part.float()
        for part in make_problem()
    ]
    found = call_on(problem, combine, Fixed(1, weight, 1), loss)
    assert found.own["head"].isfinite().all()
    assert found.own["head"][:, 0].all()


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2), Last(False)])
def test_scale_and_longest_norm_of_each_seed_in_combine(method):
    problem = make_problem()
    plain = call_on(problem, combine, method, loss)
    scaled = call_on(problem, combine, method, loss, convention=Convention(scale="tasks"))
    assert_same(scaled.direction.values(), [K * part for part in plain.direction.values()])
    # Scaling comes before clipping: choose a limit between K times the one norm and the other.
    long = K * norm(plain.direction)
    limit = float(long.log().mean().exp())
    assert long.amin() < limit < long.amax()
    clipped = call_on(
        problem, combine, method, loss, convention=Convention(scale="tasks", max_norm=limit)
    )
    torch.testing.assert_close(norm(clipped.direction), long.clamp(max=limit))
    factors = norm(clipped.direction) / norm(plain.direction)
    for name, part in clipped.direction.items():
        factor = factors.view(S, *(1,) * (part.ndim - 1))
        torch.testing.assert_close(part, factor * plain.direction[name])
    assert_same(clipped.own.values(), plain.own.values())


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2), Last(False)])
@pytest.mark.parametrize("limit", [0.1, 1e6])
def test_scale_and_longest_norm_in_backward(method, limit):
    plain, shaped = Heads(), Heads()
    backward(plain.losses(), method, **plain.groups)
    backward(
        shaped.losses(),
        method,
        **shaped.groups,
        convention=Convention(scale="tasks", max_norm=limit),
    )
    before, after = plain.grads(), shaped.grads()
    length = K * torch.cat([part.flatten() for part in before[:4]]).norm()
    factor = K * (limit / length).clamp(max=1)
    assert (factor == K) == (limit == 1e6)
    assert_same(after, [factor * part for part in before[:4]] + before[4:])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("scale", "factor"), [("tasks_and_own", K), ("mean_and_own", 1 / K)])
def test_scales_of_shared_and_own_gradients_alike(name, scale, factor):
    problem, method = make_problem(), METHODS[name]
    plain = call_on(problem, combine, method, loss)
    scaled = call_on(problem, combine, method, loss, convention=Convention(scale=scale))
    assert_same(scaled.direction.values(), [factor * part for part in plain.direction.values()])
    assert_same(scaled.own.values(), [factor * part for part in plain.own.values()])
    model, shaped = Heads(), Heads()
    backward(model.losses(), method, **model.groups)
    backward(shaped.losses(), method, **shaped.groups, convention=Convention(scale=scale))
    assert_same(shaped.grads(), [factor * part for part in model.grads()])


def test_clipping_a_direction_of_nothing_leaves_nothing():
    direction = Convention(max_norm=1.0).apply({"weight": torch.zeros(2, 3)}, tasks=K, batch_dims=1)
    assert torch.equal(direction["weight"], torch.zeros(2, 3))


def test_clipping_measures_half_precision_without_overflow():
    found = Convention(max_norm=1.0).apply(
        {"weight": torch.full((4,), 300.0).half()}, tasks=K, batch_dims=0
    )
    torch.testing.assert_close(found["weight"], torch.full((4,), 0.5).half())


def test_the_presets_are_what_the_table_says():
    assert CONVENTIONS["plain"] == Convention("plain", "none", None)
    assert CONVENTIONS["official_supervised"] == Convention("weighted_losses", "tasks", 1.0)
    assert CONVENTIONS["libmtl"] == Convention("weighted", "none", None)
    assert CONVENTIONS["libmtl_nash_mtl"] == Convention("weighted", "none", 1.0)


def test_nash_mtl_as_in_libmtl_clips_the_encoder_and_weights_the_heads():
    """LibMTL: `sum(w * losses).backward()`, then `clip_grad_norm_(shared, 1.0)`."""
    ours, theirs = Heads(), Heads()
    report = backward(
        ours.losses(), NashMTL(), **ours.groups, convention=CONVENTIONS["libmtl_nash_mtl"]
    )
    weights = report["weights"]
    torch.testing.assert_close(report["gramian"] @ weights, 1 / weights)  # Nash-MTL's equation
    (weights @ torch.stack(theirs.losses())).backward()
    length = torch.nn.utils.clip_grad_norm_(theirs.groups["shared"], 1.0)
    assert length > 1  # ‖d‖ = √K
    assert_same(ours.grads(), theirs.grads(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "chosen",
    [
        {"own": "heavy"},
        {"scale": 2},
        {"max_norm": 0},
        {"max_norm": float("inf")},
    ],
)
def test_other_values_are_refused(chosen):
    with refused(*next(iter(chosen.items()))):
        Convention(**chosen)
