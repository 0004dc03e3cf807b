"""`backward` writes the combined direction and own gradients; `Accumulator` does so for several
micro-batches.
"""

import pytest
import torch

from mtrl_fairgrad import (
    LS,
    Accumulator,
    Convention,
    FairGrad,
    JacobianAggregation,
    backward,
    jacobian_like,
)
from mtrl_fairgrad.weighting import Aggregate
from tests.support.multi_head_model import Fixed, Heads, K, assert_same

EXACT = {"rtol": 1e-10, "atol": 1e-10}


class Signs(JacobianAggregation):
    """Keeps what agrees with its noise; records the Jacobian it sees."""

    name = "signs"

    def __init__(self):
        super().__init__()
        self.template, self.seen = {}, {}

    def init(self, tasks, batch_shape=(), template=None):
        self.template = template
        return super().init(tasks, batch_shape, template)

    def draw(self, generators):
        return torch.rand(K, generator=generators[0], dtype=torch.float64)

    def forward(self, jacobian, noise=None):
        self.seen = dict(jacobian)
        weights = self._require_noise(noise)
        return Aggregate(
            {name: torch.einsum("k,k...->...", weights, rows) for name, rows in jacobian.items()},
            {},
        )


def test_with_ls_it_equals_plain_backward():
    model, plain = Heads(), Heads()
    backward(model.losses(), LS(), **model.groups)
    torch.stack(plain.losses()).sum().backward()
    assert_same(model.grads(), plain.grads())


@pytest.mark.parametrize("stacked", [True, False])
def test_with_fairgrad_it_sets_the_weighted_sum_of_task_gradients(stacked):
    model = Heads()
    rows = model.rows()
    losses = torch.stack(model.losses()) if stacked else model.losses()
    report = backward(losses, FairGrad(alpha=2), **model.groups)
    shared = len(model.groups["shared"])
    for index, found in enumerate(model.grads()):
        weights = report["weights"] if index < shared else torch.ones(K)
        torch.testing.assert_close(
            found, sum(w * row[index] for w, row in zip(weights, rows, strict=True)), **EXACT
        )
    assert report["min_progress"] > 0 and report["converged"] and report["gramian"].shape == (K, K)
    assert "skipped" not in report


def test_without_own_parameters_the_heads_are_left_alone():
    model = Heads()
    backward(model.losses(), FairGrad(alpha=2), shared=model.encoder.parameters())
    assert all(parameter.grad is None for parameter in model.heads.parameters())


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=1)])
def test_it_adds_to_grad_as_pytorch_does(method):
    model = Heads()
    backward(model.losses(), method, **model.groups)
    once = model.grads()
    backward(model.losses(), method, **model.groups)
    assert_same(model.grads(), [2 * gradient for gradient in once])


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2)])
def test_an_untouched_parameter_counts_as_zero(method):
    used, half, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    backward([used.sum(), (2 * used * half).sum()], method, shared=[used, half, unused])
    assert half.grad is not None and torch.isfinite(half.grad).all() and half.grad.abs().sum() > 0
    assert unused.grad is None or not unused.grad.any()


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2)])
def test_a_loss_without_gradient_counts_as_zero(method):
    parameter = torch.ones(2, requires_grad=True)
    backward([parameter.sum(), torch.tensor(3.0)], method, shared=[parameter])
    expected = (
        torch.ones(2) if isinstance(method, LS) else torch.ones(2) * 2 ** (-2 / 3)
    )  # ‖g‖² = 2, w³ = 1/4
    torch.testing.assert_close(parameter.grad, expected)


def test_frozen_parameters_are_left_alone():
    model = Heads()
    model.encoder[0].bias.requires_grad_(False)
    backward(model.losses(), FairGrad(alpha=2), **model.groups)
    assert model.encoder[0].bias.grad is None and model.encoder[0].weight.grad is not None


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2)])
def test_grad_has_the_parameters_memory_layout(method):
    kernel = torch.ones(2, 3, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    backward([kernel.sum(), kernel.square().sum()], method, shared=[kernel])
    assert kernel.grad.stride() == kernel.stride()


def test_training_lowers_every_loss():
    model = Heads()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    before = torch.stack(model.losses()).detach()
    for _ in range(30):
        optimizer.zero_grad()
        backward(model.losses(), FairGrad(alpha=2), **model.groups)
        optimizer.step()
    assert (torch.stack(model.losses()).detach() < before).all()


@pytest.mark.parametrize(("method", "passes"), [(LS(), 1), (FairGrad(alpha=2), K)])
def test_encoder_passes(method, passes):
    model = Heads()
    counted = model.count_encoder_passes()
    backward(model.losses(), method, **model.groups)
    assert len(counted) == passes


def test_weighted_own_gradients_of_a_loss_weighting_cost_one_pass_through_the_heads_too():
    model = Heads()
    outputs = model(model.inputs)[1]
    counted = []
    outputs[0].register_hook(counted.append)
    backward(
        model.errors(outputs), LS(), **model.groups, convention=Convention(own="weighted_losses")
    )
    assert len(counted) == 1


def test_the_graph_is_freed():
    for method in (LS(), FairGrad(alpha=2)):
        model = Heads()
        losses = model.losses()
        backward(losses, method, **model.groups)
        with pytest.raises(RuntimeError, match="second time"):
            losses[-1].backward()


def test_jacobian_like_has_the_names_and_shapes_a_method_will_see():
    model = Heads()
    model.encoder[0].bias.requires_grad_(False)
    method = Signs().init(K, template=jacobian_like(model.encoder.parameters(), K))
    backward(model.losses(), method, **model.groups, noise=torch.ones(K, dtype=torch.float64))
    assert {n: r.shape for n, r in method.seen.items()} == {
        n: r.shape for n, r in method.template.items()
    }
    assert [r.dtype for r in method.seen.values()] == [r.dtype for r in method.template.values()]


def test_a_generator_serves_as_noise():
    models = [Heads(), Heads()]
    generators = [torch.Generator().manual_seed(5) for _ in models]
    method = Signs()
    backward(models[0].losses(), method, **models[0].groups, noise=generators[0])
    backward(models[1].losses(), method, **models[1].groups, noise=method.draw([generators[1]]))
    assert_same(models[0].grads(), models[1].grads(), **EXACT)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


@pytest.mark.parametrize(
    ("losses", "shared", "message"),
    [
        ([], [torch.ones(1, requires_grad=True)], "empty"),
        (torch.ones(0, requires_grad=True) * 1, [torch.ones(1, requires_grad=True)], "empty"),
        (
            torch.ones(2, 2, requires_grad=True),
            [torch.ones(1, requires_grad=True)],
            r"shape \(2, 2\)",
        ),
        (torch.ones((), requires_grad=True), [torch.ones(1, requires_grad=True)], r"shape \(\)"),
        ([torch.ones(2, requires_grad=True)], [torch.ones(1, requires_grad=True)], r"shape \(2,\)"),
        (torch.ones(2), [torch.ones(1, requires_grad=True)], "no gradient"),
        (torch.ones(2, requires_grad=True) * 1, [], "requires a gradient"),
        (torch.ones(2, requires_grad=True) * 1, torch.ones(1, requires_grad=True), "single tensor"),
    ],
)
def test_what_it_cannot_use_is_refused(losses, shared, message):
    with pytest.raises(ValueError, match=message):
        backward(losses, FairGrad(alpha=2), shared=shared)


def test_a_parameter_given_twice_is_refused():
    model = Heads()
    for groups in (
        {"shared": model.parameters(), "own": model.heads.parameters()},
        {"shared": model.groups["shared"] * 2},
    ):
        with pytest.raises(ValueError, match="given twice"):
            backward(model.losses(), FairGrad(alpha=2), **groups)


def test_what_is_no_method_is_refused():
    parameter = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="FairGrad"):
        backward([parameter.sum(), parameter.prod()], torch.nn.Identity(), shared=[parameter])
    accumulator = Accumulator(shared=[parameter])
    accumulator.add([parameter.sum(), parameter.prod()])
    with pytest.raises(TypeError, match="FairGrad"):
        accumulator.backward(torch.nn.Identity())
    assert parameter.grad is None


def test_a_loss_that_is_not_positive_is_refused_before_anything_changes():
    model, method = Heads(), Fixed(1, 1, 1, positive=True)
    losses = model.losses()
    losses[2] = losses[2] * 0 - 0.3
    with pytest.raises(
        ValueError, match=r"task 2's loss is -0\.3: fixed needs losses of at least 0; shift"
    ):
        backward(losses, method, **model.groups)
    accumulator = Accumulator(**model.groups)
    accumulator.add(losses)
    with pytest.raises(ValueError, match=r"task 2's loss is -0\.3"):
        accumulator.backward(method)
    assert method.seen == [] and model.grads() == [None] * len(model.grads())
    accumulator.backward(LS())  # what was added is still there
    assert model.encoder[0].weight.grad is not None


# ---- micro-batches ----


def accumulate(
    model, method, parts=(slice(0, 4), slice(4, 8), slice(8, 12)), noise=None, **options
):
    accumulator = Accumulator(**model.groups, **options)
    for part in parts:
        accumulator.add([loss / len(parts) for loss in model.losses(part)])
    return accumulator.backward(method, noise)


@pytest.mark.parametrize(
    "method",
    [FairGrad(alpha=2), FairGrad(alpha=1, solver="sgd"), LS("mean"), Fixed(0.5, 0, 2), Signs()],
)
@pytest.mark.parametrize("own", ["plain", "weighted", "weighted_losses"])
def test_micro_batches_equal_the_big_batch(method, own):
    big, small = Heads(), Heads()
    noise, convention = (
        torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
        Convention(own, "tasks", 0.7),
    )
    expected = backward(big.losses(), method, **big.groups, noise=noise, convention=convention)
    found = accumulate(small, method, noise=noise, convention=convention)
    assert_same(small.grads(), big.grads(), **EXACT)
    assert_same(
        [found[key].double() for key in expected],
        [part.double() for part in expected.values()],
        **EXACT,
    )


def test_a_loss_weighting_sees_the_sum_of_the_micro_batches_losses_once():
    model, method = Heads(), Fixed(1, 2, 3)
    accumulate(model, method)
    assert_same(method.seen, [torch.stack(model.losses()).detach()], **EXACT)


def test_an_accumulator_begins_anew_after_backward():
    model = Heads()
    accumulator = Accumulator(**model.groups)
    for _ in range(2):
        model.zero_grad()
        accumulator.add(model.losses())
        accumulator.backward(FairGrad(alpha=2))
        found = model.grads()
    expected = Heads()
    backward(expected.losses(), FairGrad(alpha=2), **expected.groups)
    assert_same(found, expected.grads(), **EXACT)
    with pytest.raises(ValueError, match="no losses were added"):
        accumulator.backward(FairGrad(alpha=2))


def test_micro_batches_of_other_tasks_are_refused():
    model = Heads()
    accumulator = Accumulator(**model.groups)
    accumulator.add(model.losses())
    with pytest.raises(ValueError, match="2 losses after 3"):
        accumulator.add(model.losses()[:2])
