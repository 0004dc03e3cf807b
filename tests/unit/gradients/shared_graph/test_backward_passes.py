"""One backward pass of several tasks gives the gradients of a loop over tasks, for any graph."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mtrl_fairgrad import LS, Accumulator, Convention, FairGrad, JacobianAggregation, backward
from mtrl_fairgrad.gradients.shared_graph import backward_passes
from mtrl_fairgrad.gradients.shared_graph import jacobian as jacobian_module
from mtrl_fairgrad.weighting import Aggregate
from tests.support.errors import refused
from tests.support.multi_head_model import Fixed, Heads, K, assert_same

EXACT = {"rtol": 1e-10, "atol": 1e-12}
SIZES = [2, K, K + 2]
WEIGHTED = Convention("weighted", "tasks", 0.7)


class First(JacobianAggregation):
    """The first task's gradient; records the Jacobian it sees."""

    name = "first"

    def forward(self, jacobian, losses=None, noise=None):
        self.seen = dict(jacobian)
        return Aggregate({name: found[0] for name, found in jacobian.items()}, {})


def with_loop(take, size, dtype=torch.float64):
    """Gradients and reports of two models on which `take(model, tasks_per_pass)` was called, with 1
    and with `size`.
    """
    models = [Heads(dtype), Heads(dtype)]
    reports = [take(model, number) for model, number in zip(models, (1, size), strict=True)]
    return [model.grads() for model in models], [list(report.values()) for report in reports]


def assert_alike(take, size, dtype=torch.float64, **tolerance):
    (loop, found), (report, other) = with_loop(take, size, dtype)
    assert_same(found, loop, **(tolerance or EXACT))
    assert_same(other, report, **(tolerance or EXACT))


def losses_of(model, stacked):
    return torch.stack(model.losses()) if stacked else model.losses()


# ---- the same answer ----


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("convention", [Convention(), WEIGHTED])
def test_a_step_is_the_loops(size, stacked, convention):
    def take(model, number):
        losses = losses_of(model, stacked)
        return backward(
            losses, FairGrad(2), **model.groups, convention=convention, tasks_per_pass=number
        )

    assert_alike(take, size)


@pytest.mark.parametrize("size", SIZES)
def test_in_single_precision_too(size):
    def take(model, number):
        return backward(model.losses(), FairGrad(2), **model.groups, tasks_per_pass=number)

    assert_alike(take, size, torch.float32, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_an_accumulators_is_the_loops(size):
    def take(model, number):
        accumulator = Accumulator(**model.groups, convention=WEIGHTED, tasks_per_pass=number)
        for part in (slice(0, 5), slice(5, 12)):
            accumulator.add(model.losses(part))
        return accumulator.backward(FairGrad(2))

    assert_alike(take, size)


@pytest.mark.parametrize("size", SIZES)
def test_at_a_representation_it_is_the_loops(size):
    def take(model, number):
        z, outputs = model(model.inputs)
        options = {"representation": z, "tasks_per_pass": number}
        return backward(model.errors(outputs), FairGrad(2), **model.groups, **options)

    assert_alike(take, size)


@pytest.mark.parametrize("size", SIZES)
def test_with_a_scaler_it_is_the_loops(size):
    def take(model, number):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        return backward(
            model.losses(), FairGrad(2), **model.groups, scaler=scaler, tasks_per_pass=number
        )

    assert_alike(take, size, torch.float32, rtol=1e-5, atol=1e-2)  # of gradients times 4096


@pytest.mark.parametrize("size", [1, *SIZES])
def test_an_overflow_skips_the_step(size):
    model, method = Heads(torch.float32), FairGrad(2)
    losses = model.losses()
    losses[1] = losses[1] * 1e35
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    report = backward(losses, method, **model.groups, scaler=scaler, tasks_per_pass=size)
    assert set(report) == {"skipped"} and report["skipped"]
    assert not any(gradient.isfinite().any() for gradient in model.grads())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("without", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_losses_without_graph_count_as_zero(size, without):
    def take(model, number):
        losses = [
            loss.detach() if task in without else loss for task, loss in enumerate(model.losses())
        ]
        report = backward(losses, FairGrad(2), **model.groups, tasks_per_pass=number)
        for head in (model.heads[task] for task in without):
            assert head.weight.grad is None
        with pytest.raises(RuntimeError, match="second time"):  # the graph is freed all the same
            next(loss for loss in reversed(losses) if loss.requires_grad).backward()
        return report

    assert_alike(take, size)


@pytest.mark.parametrize("size", [1, *SIZES])
def test_tasks_that_do_not_reach_a_parameter_have_rows_of_zeros(size):
    everyones, one, noones, scalar = (
        torch.ones(shape, requires_grad=True) for shape in (2, 3, 2, ())
    )
    losses = [everyones.sum(), 2 * everyones.square().sum() + one.sum(), everyones[0] * scalar * 3]
    method = First()
    backward(losses, method, shared=[everyones, one, noones, scalar], tasks_per_pass=size)
    expected = [[[1, 1], [4, 4], [3, 0]], [[0] * 3, [1] * 3, [0] * 3], [[0, 0]] * 3, [0, 0, 3]]
    assert [found.tolist() for found in method.seen.values()] == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("convention", [Convention(), WEIGHTED])
def test_own_parameters_of_all_tasks_in_one_tensor_before_the_shared_ones(size, convention):
    embeddings = [torch.ones(K, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def take(model, number):
        own = embeddings.pop()
        hidden = model.encoder(model.inputs[:K] * own)
        losses = [head(row).square().sum() for head, row in zip(model.heads, hidden, strict=True)]
        groups = {"shared": model.encoder.parameters(), "own": [own]}
        return backward(
            losses, FairGrad(2), **groups, convention=convention, tasks_per_pass=number
        ) | {"own": own.grad}

    assert_alike(take, size)


def test_own_gradients_take_one_gradient_of_memory_each():
    model = Heads()
    found = backward_passes.one_pass(
        model.losses(), model.groups["shared"], model.groups["own"], torch.ones(()), False
    )
    assert [gradient.shape[0] for gradient in found.shared] == [K] * 4
    reached = [[gradient is not None for gradient in task] for task in found.own]
    assert reached == [[position // 2 == task for position in range(2 * K)] for task in range(K)]
    assert found.own[1][2].shape == model.heads[1].weight.shape


@pytest.mark.parametrize("size", [1, None])
def test_sparse_gradients_are_taken(size):
    found = []
    for sparse in (False, True):
        table = nn.Embedding(5, 3, sparse=sparse)
        nn.init.eye_(table.weight)
        rows = table(torch.tensor([0, 2, 2]))
        backward(
            [rows.sum(), rows[:2].sum() * 2],
            FairGrad(2),
            shared=table.parameters(),
            tasks_per_pass=size,
        )
        assert table.weight.grad.is_sparse == sparse  # as `Tensor.backward` leaves it
        found.append(table.weight.grad.to_dense())
    assert_same(found[1:], found[:1])


# ---- cost ----


@pytest.mark.parametrize(("size", "expected"), [(1, 3), (2, 2), (3, 1), (5, 1), (None, 3)])
def test_encoder_passes(size, expected):
    model = Heads()
    counted = model.count_encoder_passes()
    backward(model.losses(), FairGrad(2), **model.groups, tasks_per_pass=size)
    assert len(counted) == expected


def test_a_loss_weighting_needs_one_pass_anyhow():
    model = Heads()
    counted = model.count_encoder_passes()
    backward(model.losses(), LS(), **model.groups, tasks_per_pass=1)
    assert len(counted) == 1


@pytest.mark.parametrize("size", [1, *SIZES])
def test_the_graph_is_freed(size):
    model = Heads()
    losses = model.losses()
    backward(losses, FairGrad(2), **model.groups, tasks_per_pass=size)
    with pytest.raises(RuntimeError, match="second time"):
        losses[-1].backward()


# ---- what cannot go together ----


class InPlace(torch.autograd.Function):
    """The square, with a backward pass that `vmap` cannot batch: it writes into a tensor of its
    own.
    """

    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(inputs)
        return inputs.square()

    @staticmethod
    def backward(ctx, gradient):
        (inputs,) = ctx.saved_tensors
        return torch.empty_like(inputs).copy_(2 * inputs * gradient)


def squares(parameter):
    """Four losses with different gradients."""
    return [
        (InPlace.apply(parameter) * torch.arange(1.0, 4.0) ** power).sum() for power in range(4)
    ]


def test_a_wish_that_cannot_be_met_is_refused_before_anything_changes():
    parameter, method = torch.ones(3, requires_grad=True), Fixed(1, 1, 1, 1)
    with pytest.raises(
        RuntimeError, match=r"2 tasks together failed \(vmap: .*copy_.*\): give a smaller tasks_per"
    ):
        backward(squares(parameter), FairGrad(2), shared=[parameter], tasks_per_pass=2)
    accumulator = Accumulator(shared=[parameter], tasks_per_pass=4)
    with pytest.raises(RuntimeError, match="4 tasks together"):
        accumulator.add(squares(parameter))
    with pytest.raises(ValueError, match="no losses were added"):
        accumulator.backward(method)
    assert parameter.grad is None and method.seen == []


def test_a_choice_that_cannot_be_met_becomes_a_loop(monkeypatch):
    parameters = [torch.ones(3, requires_grad=True) for _ in range(2)]
    expected = backward(
        squares(parameters[0]), FairGrad(2), shared=[parameters[0]], tasks_per_pass=1
    )
    monkeypatch.setattr(jacobian_module, "default_tasks_per_pass", lambda tasks, jacobian: 2)
    with pytest.warns(UserWarning, match=r"2 tasks together failed .* one pass per task"):
        found = backward(squares(parameters[1]), FairGrad(2), shared=[parameters[1]])
    assert_same(found.values(), expected.values(), rtol=0, atol=0)
    torch.testing.assert_close(parameters[1].grad, parameters[0].grad, rtol=0, atol=0)


def test_a_failure_of_a_later_pass_is_told(monkeypatch):
    parameter = torch.ones(3, requires_grad=True)
    losses = [parameter.sum(), parameter.square().sum(), *squares(parameter)[:2]]
    monkeypatch.setattr(jacobian_module, "default_tasks_per_pass", lambda tasks, jacobian: 2)
    with pytest.raises(RuntimeError, match="2 tasks together failed"):
        backward(losses, FairGrad(2), shared=[parameter])
    assert parameter.grad is None


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "2"])
def test_a_size_that_is_none_is_refused(size):
    parameter = torch.ones(2, requires_grad=True)
    with refused("tasks_per_pass", size):
        backward([parameter.sum(), parameter.prod()], LS(), shared=[parameter], tasks_per_pass=size)
    with pytest.raises(ValueError, match="tasks_per_pass"):
        Accumulator(shared=[parameter], tasks_per_pass=size)


# ---- the choice ----


@pytest.mark.parametrize(
    ("tasks", "others", "expected"),
    [
        (40, 1, 20),  # half of them fit
        (40, 10, 10),
        (40, 6, 14),  # 16 fit: three passes of 14, 14 and 12 rather than of 16, 16 and 8
        (40, 99, 1),
        (40, 1000, 1),
        (3, 1, 2),
        (2, 1, 1),
        (1, 1, 1),
    ],
)
def test_on_cuda_as_many_tasks_go_together_as_fit(monkeypatch, tasks, others, expected):
    """With 80 bytes free, 20 more cached and `others` held beside a Jacobian of 50."""
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50 + others)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50 + others + 20)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80, 1000))
    jacobian = [SimpleNamespace(device=torch.device("cuda", 0), nbytes=25) for _ in range(2)]
    assert backward_passes.default_tasks_per_pass(tasks, jacobian) == expected


def test_elsewhere_it_is_a_loop():
    for device in ("cpu", "meta"):
        assert backward_passes.default_tasks_per_pass(40, [torch.empty(40, 3, device=device)]) == 1


class Donated(torch.autograd.Function):
    """Refuses to keep its buffers, as a compiled module whose buffers are donated."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if torch._C._autograd._get_current_graph_task_keep_graph():
            raise RuntimeError(
                "This backward function was compiled with non-empty donated buffers which requires "
                "create_graph=False and retain_graph=False."
            )
        return grad


def test_donated_buffers_are_refused_with_both_remedies():
    parameter = torch.tensor([1.0, 2.0], requires_grad=True)

    def losses():
        z = Donated.apply(parameter * 2)
        return z, [z[0], z[1] * z[0]]

    with pytest.raises(RuntimeError, match=r"donated_buffer = False .*representation=") as caught:
        backward(losses()[1], FairGrad(), shared=[parameter])
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert parameter.grad is None
    z, values = losses()
    backward(values, FairGrad(), shared=[parameter], representation=z)
    assert parameter.grad.isfinite().all()
