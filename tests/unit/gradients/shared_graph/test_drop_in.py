"""`backward` treats parameters, hooks and the graph as `sum(losses).backward()` does, and takes
what people give it.
"""

import copy
import warnings

import pytest
import torch
from torch import nn

from mtrl_fairgrad import (
    CONVENTIONS,
    LS,
    Accumulator,
    FairGrad,
    PCGrad,
    backward,
    combine,
    jacobian_like,
    make_method,
    method_names,
)
from tests.support.errors import refused
from tests.support.multi_head_model import Heads, K, assert_same

METHODS = [name for name in method_names() if name != "stl"]
STATEFUL = ["rlw", "dwa", "uw", "famo", "stch", "pcgrad", "gradvac", "graddrop", "moco", "db_mtl"]


# ---- parameters that no loss reaches ----


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("accumulated", [False, True])
def test_grad_of_an_unreached_parameter_stays_as_it_is(name, accumulated):
    used, never, kept, head = (torch.ones(2, requires_grad=True) for _ in range(4))
    kept.grad = torch.full((2,), 7.0)
    losses = [used.sum(), used.square().sum()]
    groups = {"shared": [never, used, kept], "own": [head]}
    convention = CONVENTIONS["official_supervised"]
    if accumulated:
        accumulator = Accumulator(**groups, convention=convention)
        accumulator.add(losses)
        accumulator.backward(make_method(name))
    else:
        backward(losses, make_method(name), **groups, convention=convention)
    assert never.grad is None and head.grad is None and kept.grad.tolist() == [7.0, 7.0]
    assert used.grad.any()


@pytest.mark.parametrize("method", [LS(), FairGrad()])
def test_an_overflow_leaves_unreached_parameters_alone_too(method):
    used, never = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    scaler = torch.amp.GradScaler("cpu")
    losses = [used.sum() * torch.inf, used.square().sum()]
    assert backward(losses, method, shared=[used, never], scaler=scaler)["skipped"]
    assert used.grad.isnan().all() and never.grad is None


def test_an_unreached_parameter_behind_a_representation_stays_as_it_is():
    used, never = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    z = used * 2
    backward([z.sum(), z[0]], FairGrad(), shared=[used, never], representation=z)
    assert never.grad is None and used.grad is not None


# ---- hooks ----


@pytest.mark.parametrize("name", METHODS)
def test_hooks_that_wait_for_grad_run_once_with_the_result(name):
    model, calls = Heads(torch.float32), []
    parameters = [p for group in model.groups.values() for p in group]
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(lambda p: calls.append((id(p), p.grad)))
    backward(model.losses(), make_method(name), **model.groups)
    assert [identity for identity, _ in calls] == [id(p) for p in parameters]
    assert all(grad is p.grad for (_, grad), p in zip(calls, parameters, strict=True))


def test_an_optimiser_in_a_hook_steps_as_one_after_backward():
    inside, after = Heads(), Heads()
    for parameter in inside.parameters():
        optimizer = torch.optim.SGD([parameter], lr=0.1)

        def step(parameter, optimizer=optimizer):
            optimizer.step()
            optimizer.zero_grad()

        parameter.register_post_accumulate_grad_hook(step)
    backward(inside.losses(), FairGrad(), **inside.groups)
    optimizer = torch.optim.SGD(after.parameters(), lr=0.1)
    backward(after.losses(), FairGrad(), **after.groups)
    optimizer.step()
    assert all(parameter.grad is None for parameter in inside.parameters())
    assert_same(list(inside.parameters()), list(after.parameters()))


def test_a_hook_of_the_gradient_acts_on_each_task_before_the_method_sees_it():
    w = torch.ones(2, requires_grad=True)
    w.register_hook(lambda gradient: gradient * torch.tensor([1.0, 0.0]))
    found = backward([w.sum() * 3, (w * w).sum()], FairGrad(), shared=[w])
    assert found["gramian"].tolist() == [[9.0, 6.0], [6.0, 4.0]] and w.grad[1] == 0


# ---- sparse gradients ----


@pytest.mark.parametrize("name", ["ls", "fairgrad", "graddrop"])
@pytest.mark.parametrize("group", ["shared", "own"])
def test_gradients_are_sparse_where_pytorch_makes_them_so(name, group):
    found = {}
    for sparse in (False, True):
        table, trunk = nn.Embedding(6, 2, sparse=sparse), torch.ones(2, requires_grad=True)
        nn.init.constant_(table.weight, 0.5)
        groups = {"shared": [trunk], "own": []}
        groups[group] = [*groups[group], table.weight]
        for _ in range(2):
            rows = table(torch.tensor([1, 4])) * trunk
            losses = [rows.square().sum(), (rows[0] - 1).square().sum()]
            method = make_method(name).init(2, template=jacobian_like(groups["shared"], 2))
            backward(losses, method, **groups, noise=torch.Generator().manual_seed(0))
        assert table.weight.grad.is_sparse == sparse
        found[sparse] = table.weight.grad.to_dense()
    torch.testing.assert_close(found[True], found[False])
    assert not found[True][[0, 2, 3, 5]].any()


# ---- what may be given ----


def test_mappings_numbers_names_and_modules_are_taken():
    expected = Heads()
    backward(expected.losses(), FairGrad(), **expected.groups, convention=CONVENTIONS["libmtl"])
    for form in (
        {"shared": "named", "own": "module", "losses": dict},
        {"shared": "mapping", "own": "modules", "losses": iter},
    ):
        model = Heads()
        given = {
            "named": model.encoder.named_parameters(),
            "mapping": dict(model.encoder.named_parameters()),
            "module": model.heads,
            "modules": list(model.heads),
        }
        losses = model.losses()
        backward(
            dict(zip("abc", losses, strict=True)) if form["losses"] is dict else iter(losses),
            FairGrad(),
            shared=given[form["shared"]],
            own=given[form["own"]],
            convention="libmtl",
        )
        assert_same(model.grads(), expected.grads())


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2)])
def test_a_number_is_the_loss_of_a_task_without_gradient(method):
    w = torch.ones(2, requires_grad=True)
    backward([w.sum(), 0.0, 1], method, shared=[w])
    assert w.grad[0] == w.grad[1] > 0


@pytest.mark.parametrize(
    ("losses", "key"),
    [
        (3, "losses"),
        (None, "losses"),
        ([0.5, 1.0], "losses"),
        ([None, 0.0], "losses[0]"),
        ([torch.ones((), dtype=torch.cfloat, requires_grad=True) * 1], "losses[0]"),
    ],
)
def test_what_is_no_loss_is_refused(losses, key):
    with refused(key):
        backward(losses, FairGrad(), shared=[torch.ones(1, requires_grad=True)])


def test_what_is_no_parameter_is_refused():
    w = torch.ones(2, requires_grad=True)
    for wrong in ("encoder", None, 3, [1.0], [{"params": [w]}], [w * 2]):
        with refused("shared"):
            backward([w.sum(), w.prod()], FairGrad(), shared=wrong)
        with refused("own"):
            backward([w.sum(), w.prod()], FairGrad(), shared=[w], own=wrong)
    assert w.grad is None


def test_shared_parameters_on_two_devices_are_refused():
    here, there = torch.ones(2, requires_grad=True), torch.ones(2, device="meta").requires_grad_()
    with refused("shared"):
        backward([here.sum(), here.prod()], FairGrad(), shared=[here, there])


def test_names_of_methods_and_conventions_are_answered():
    w = torch.ones(2, requires_grad=True)
    for wrong in ("fairgrad", FairGrad):
        with pytest.raises(TypeError):
            backward([w.sum(), w.prod()], wrong, shared=[w])
    for call in (backward, lambda *a, **o: Accumulator(shared=[w], convention=o["convention"])):
        with refused("convention", "libmlt"):
            call([w.sum(), w.prod()], FairGrad(), shared=[w], convention="libmlt")
        with pytest.raises(TypeError):
            call([w.sum(), w.prod()], FairGrad(), shared=[w], convention=1)
    backward([w.sum(), w.prod()], LS(), shared=[w], convention="official")
    assert w.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("name", ["ls", "uw", "fairgrad"])
def test_shared_parameters_that_no_loss_reaches_are_refused_before_anything_changes(name):
    w, other = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    method = make_method(name)
    with pytest.raises(ValueError, match="no loss depends"):
        backward([w.sum(), w.prod()], method, shared=[other], own=[w])
    assert w.grad is None and other.grad is None and method.tasks is None


def test_forgotten_heads_are_named_once():
    model = Heads()
    for expected in (1, 0):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            backward(model.losses(), LS(), shared=model.encoder)
        assert len(said) == expected, [str(each.message) for each in said]


def test_nothing_is_said_where_all_parameters_are_given_or_frozen():
    model, frozen = Heads(), Heads()
    frozen.heads.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backward(model.losses(), FairGrad(), **model.groups)
        backward(frozen.losses(), FairGrad(), shared=frozen.encoder)


# ---- the graph, unsolved equations, non-finite numbers ----


@pytest.mark.parametrize("method", [LS(), FairGrad()])
@pytest.mark.parametrize("represented", [False, True])
def test_the_graph_is_kept_when_asked(method, represented):
    model = Heads()
    z, outputs = model(model.inputs)
    losses = model.errors(outputs)
    for _ in range(2):
        backward(
            losses, method, **model.groups, retain_graph=True,
            representation=z if represented else None,
        )  # fmt: skip
    torch.stack(losses).sum().backward()


UNSOLVABLE = {"alpha": 2.0, "solver": "sgd", "sgd_steps": 1}


def test_an_unsolved_direction_is_never_written_silently():
    model, method = Heads(), FairGrad(**UNSOLVABLE)
    with pytest.warns(RuntimeWarning, match="did not solve"):
        assert not backward(model.losses(), method, **model.groups)["converged"]
    with warnings.catch_warnings():  # once for each method
        warnings.simplefilter("error")
        backward(model.losses(), method, **model.groups)


@pytest.mark.parametrize("accumulated", [False, True])
def test_equal_weights_replace_an_unsolved_direction_when_asked(accumulated):
    model, mean = Heads(), Heads()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if accumulated:
            accumulator = Accumulator(**model.groups)
            accumulator.add(model.losses())
            found = accumulator.backward(FairGrad(**UNSOLVABLE), fall_back=True)
        else:
            found = backward(model.losses(), FairGrad(**UNSOLVABLE), **model.groups, fall_back=True)
    assert found["fell_back"]
    torch.testing.assert_close(found["weights"], torch.full((K,), 1 / K, dtype=torch.float64))
    backward(mean.losses(), LS("mean"), **mean.groups)
    assert_same(model.grads(), mean.grads())
    solved = Heads()
    assert not backward(solved.losses(), FairGrad(), **solved.groups, fall_back=True)["fell_back"]


@pytest.mark.parametrize("name", ["ls", "fairgrad", "graddrop"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_is_named(name, value):
    w = torch.ones(2, requires_grad=True)
    with pytest.warns(RuntimeWarning, match=r"tasks \[1\]"):
        backward([w.sum(), w.sum() * value], make_method(name), shared=[w])


# ---- state and randomness without preparation ----


@pytest.mark.parametrize("name", STATEFUL)
def test_every_method_works_at_once_and_repeats_with_the_seed(name):
    def train():
        torch.manual_seed(3)
        model, method, directions = Heads(), make_method(name), []
        for _ in range(3):
            model.zero_grad()
            backward(model.losses(), method, **model.groups)
            method.after_step(torch.stack(model.losses()).detach())
            directions.append(model.grads())
        return directions

    first, second = train(), train()
    for mine, theirs in zip(first, second, strict=True):
        assert_same(mine, theirs, rtol=0, atol=0)


def test_the_default_noise_is_new_in_each_call_and_leaves_the_global_generator_alone():
    model = Heads()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    method, weights = make_method("rlw"), []
    for _ in range(2):
        weights.append(backward(model.losses(), method, **model.groups)["weights"])
    assert not torch.equal(*weights) and torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    other = backward(model.losses(), make_method("rlw"), **model.groups)["weights"]
    assert not torch.equal(other, weights[0])


def test_the_default_noise_continues_from_a_state_dict_and_restarts_after_reset():
    model, method = Heads(), make_method("rlw")

    def weights(method):
        return backward(model.losses(), method, **model.groups)["weights"]

    first, saved = weights(method), copy.deepcopy(method.state_dict())
    second = weights(method)
    resumed = make_method("rlw")
    resumed.load_state_dict(saved)
    assert torch.equal(weights(resumed), second)
    assert torch.equal(weights(copy.deepcopy(resumed)), weights(method))
    method.reset()
    assert torch.equal(weights(method), first)


def test_a_given_generator_needs_no_init():
    model, other = Heads(), Heads()
    backward(model.losses(), PCGrad(), **model.groups, noise=torch.Generator().manual_seed(4))
    method = PCGrad().init(K)
    noise = method.draw([torch.Generator().manual_seed(4)])
    backward(other.losses(), method, **other.groups, noise=noise)
    assert_same(model.grads(), other.grads(), rtol=0, atol=0)


@pytest.mark.parametrize("name", STATEFUL)
def test_combine_works_at_once_too(name):
    def loss(shared, context, own, x):
        return (x @ shared["w"]).square().mean(), ()

    x = torch.randn(2, K, 5, 3, generator=torch.Generator().manual_seed(0))
    found = combine(make_method(name), loss, {"w": torch.ones(2, 3)}, x)
    assert found.direction["w"].isfinite().all() and found.direction["w"].shape == (2, 3)


def test_a_random_method_names_the_number_of_tasks_that_changed() -> None:
    shared = torch.nn.Parameter(torch.ones(2))
    method = make_method("pcgrad")
    backward([shared.sum(), (2 * shared).sum(), -shared.sum()], method, shared=[shared])
    with pytest.raises(ValueError, match=r"initialised for losses of shape \(3,\) but got \(2,\)"):
        backward([shared.sum(), -shared.sum()], method, shared=[shared])
