"""With a `GradScaler`, gradients are combined in the units of the losses, and an overflow leaves no
trace.
"""

import pytest
import torch

from mtrl_fairgrad import (
    LS,
    Accumulator,
    Convention,
    FairGrad,
    GramianWeighting,
    backward,
    contract,
    gramian,
)
from mtrl_fairgrad.weighting import Weights
from tests.support.multi_head_model import Fixed, Heads, K, assert_same

HALF = {"rtol": 0.03, "atol": 0.03}  # of gradients of about 1, from matrix products with 11 bits


class Counting(GramianWeighting):
    """Equal weights and a state that changes with every call."""

    name = "counting"

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, gramian, losses=None, noise=None):
        self.calls += 1
        return Weights(torch.ones_like(losses), {})


def half_losses(model):
    with torch.autocast("cpu", torch.float16):
        outputs = model(model.inputs)[1]
        assert outputs[0].dtype == torch.float16
        return model.errors(outputs)


def unscaled(model, scaler):
    return [gradient / scaler.get_scale() for gradient in model.grads()]


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_autocast_with_a_scaler_gives_the_direction_of_full_precision(alpha):
    half, full = Heads(torch.float32), Heads(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    report = backward(half_losses(half), FairGrad(alpha), **half.groups, scaler=scaler)
    backward(full.losses(), FairGrad(alpha), **full.groups)
    assert not report["skipped"]
    assert_same(unscaled(half, scaler), full.grads(), **HALF)


def test_the_gramian_of_scaled_gradients_would_have_given_another_direction():
    model, scale = Heads(torch.float32), 2.0**10
    rows = {
        str(i): scale * torch.stack(column)
        for i, column in enumerate(zip(*model.rows(), strict=True))
    }
    shared = {name: rows[name] for name in ("0", "1", "2", "3")}
    naive = [
        part / scale
        for part in contract(FairGrad(alpha=2)(gramian(shared)).weights, shared).values()
    ]
    backward(
        model.losses(),
        FairGrad(alpha=2),
        **model.groups,
        scaler=torch.amp.GradScaler("cpu", init_scale=scale),
    )
    for mine, theirs in zip(model.grads(), naive, strict=False):
        assert (mine / scale).norm() > 10 * theirs.norm()


@pytest.mark.parametrize("method", [LS(), Fixed(1, 0, 3), FairGrad(alpha=2)])
@pytest.mark.parametrize("accumulate", [False, True])
def test_grad_is_the_scale_times_what_it_is_without_scaler(method, accumulate):
    convention = Convention("weighted_losses", "tasks", 0.3)
    plain, scaled = Heads(torch.float32), Heads(torch.float32)
    backward(plain.losses(), method, **plain.groups, convention=convention)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    if accumulate:
        accumulator = Accumulator(**scaled.groups, scaler=scaler, convention=convention)
        accumulator.add(scaled.losses())
        report = accumulator.backward(method)
    else:
        report = backward(
            scaled.losses(), method, **scaled.groups, scaler=scaler, convention=convention
        )
    assert not report["skipped"]
    assert_same(unscaled(scaled, scaler), plain.grads())


@pytest.mark.parametrize("clip", [False, True])
def test_the_usual_lines_around_a_scaler_work_unchanged(clip):
    plain, scaled = Heads(torch.float32), Heads(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for model in (plain, scaled):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            if model is plain:
                backward(model.losses(), FairGrad(alpha=2), **model.groups)
            else:
                backward(model.losses(), FairGrad(alpha=2), **model.groups, scaler=scaler)
                scaler.unscale_(optimizer) if clip else None
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            if model is plain:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
    assert_same(scaled.parameters(), plain.parameters())


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_an_overflow_skips_the_step_and_leaves_the_method_alone(accumulate, unscale):
    model, method = Heads(torch.float32), Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    accumulator = Accumulator(**model.groups, scaler=scaler)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    skipped = []
    for _ in range(12):
        optimizer.zero_grad()
        if accumulate:
            accumulator.add(model.losses())
            report = accumulator.backward(method)
        else:
            report = backward(model.losses(), method, **model.groups, scaler=scaler)
        if report["skipped"]:
            assert set(report) == {"skipped"}
            assert not any(gradient.isfinite().any() for gradient in model.grads())
        scaler.unscale_(optimizer) if unscale else None
        scaler.step(optimizer)
        scaler.update()
        skipped.append(bool(report["skipped"]))
        assert method.calls == skipped.count(False)
        if all(skipped):
            assert_same(model.parameters(), before, rtol=0, atol=0)
    assert skipped[0] and not skipped[-1]
    assert not torch.equal(model.encoder[0].weight, before[0])


def test_an_overflow_of_an_own_gradient_counts():
    shared, own = (torch.ones(2, requires_grad=True) for _ in range(2))
    method = Counting()
    losses = [shared.sum() + 1e30 * own.sum(), shared.prod()]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    report = backward(losses, method, shared=[shared], own=[own], scaler=scaler)
    assert report["skipped"] and method.calls == 0 and shared.grad.isnan().all()


def test_an_overflow_in_the_forward_pass_leaves_a_loss_weighting_alone():
    parameter = torch.ones(2, requires_grad=True)
    method = Fixed(1, 1)
    losses = [parameter.sum(), (1e38 * parameter).square().sum()]
    report = backward(losses, method, shared=[parameter], scaler=torch.amp.GradScaler("cpu"))
    assert report["skipped"] and method.seen == []


def test_an_overflow_in_the_pass_of_a_loss_weighting_is_told():
    model = Heads(torch.float32)
    report = backward(
        model.losses(),
        LS(),
        **model.groups,
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0**127),
    )
    assert report["skipped"] and "weights" in report
    assert not any(gradient.isfinite().any() for gradient in model.grads())


def test_a_disabled_scaler_is_none():
    model, plain = Heads(torch.float32), Heads(torch.float32)
    report = backward(
        model.losses(),
        FairGrad(alpha=2),
        **model.groups,
        scaler=torch.amp.GradScaler(enabled=False),
    )
    backward(plain.losses(), FairGrad(alpha=2), **plain.groups)
    assert "skipped" not in report
    assert_same(model.grads(), plain.grads(), rtol=0, atol=0)


@pytest.mark.parametrize(("size", "scale"), [(1.0, 2.0**10), (1e-4, 2.0**20)])
def test_a_representation_in_half_precision(size, scale):
    # Losses of 1e-4 of the size make FairGrad's direction longer than their gradients by far:
    # scaled, float16 would not hold it.
    half, full = Heads(torch.float32), Heads(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    with torch.autocast("cpu", torch.float16):
        z, outputs = half(half.inputs)
    losses = [size * loss for loss in half.errors(outputs)]
    report = backward(losses, FairGrad(alpha=2), **half.groups, representation=z, scaler=scaler)
    z_full, outputs = full(full.inputs)
    losses = [size * loss for loss in full.errors(outputs)]
    backward(losses, FairGrad(alpha=2), **full.groups, representation=z_full)
    assert z.dtype == torch.float16 and not report["skipped"] and report["weights"].shape == (K,)
    expected = full.grads()
    for mine, theirs in zip(unscaled(half, scaler), expected, strict=True):
        assert (mine - theirs).norm() < 0.03 * theirs.norm()
