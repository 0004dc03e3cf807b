"""Two processes with half a batch each write what one process with the whole batch does."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from mtrl_fairgrad import (
    LS,
    Accumulator,
    Convention,
    FairGrad,
    JacobianAggregation,
    backward,
    make_method,
)
from mtrl_fairgrad.weighting import Aggregate
from tests.support.multi_head_model import Fixed, Heads, K, assert_same
from tests.support.processes import two_processes

EXACT = {"rtol": 1e-10, "atol": 1e-10}
HALVES = (slice(0, 6), slice(6, 12))
WHOLE = slice(None)


class Drawn(JacobianAggregation):
    """Task gradients times their noise."""

    name = "drawn"

    def draw(self, generators):
        return torch.rand(K, generator=generators[0], dtype=torch.float64)

    def forward(self, jacobian, noise=None):
        weights = self._require_noise(noise)
        return Aggregate(
            {name: torch.einsum("k,k...->...", weights, rows) for name, rows in jacobian.items()},
            {},
        )


def step(
    method, convention=None, represented=False, accumulated=False, seeds=(0, 0), tasks_per_pass=None
):
    """One way to call `backward` or `Accumulator`, in the process of this rank or, for `part`
    WHOLE, in a lone one.
    """

    def take(model, forward, part):
        noise = torch.Generator().manual_seed(seeds[0] if part in (WHOLE, HALVES[0]) else seeds[1])
        options = {"convention": convention or Convention(), "tasks_per_pass": tasks_per_pass}
        if accumulated:
            accumulator = Accumulator(**model.groups, **options)
            rows = torch.arange(12)[part]
            for piece in rows.chunk(2):
                accumulator.add(
                    [loss / 2 for loss in model.errors(forward(model.inputs[piece])[1], piece)]
                )
            return accumulator.backward(method, noise)
        z, outputs = forward(model.inputs[part])
        options["representation"] = z if represented else None
        return backward(model.errors(outputs, part), method, **model.groups, noise=noise, **options)

    return take


STEPS = {
    "fairgrad": step(FairGrad(alpha=2)),
    "ls": step(LS("mean")),
    "some": step(Fixed(0.5, 0, 2)),
    "noise of the first": step(Drawn(), seeds=(3, 4)),
    "convention": step(FairGrad(alpha=1), Convention("weighted", "tasks", 0.5)),
    "two tasks a pass": step(FairGrad(alpha=2), tasks_per_pass=2),
    "accumulated": step(FairGrad(alpha=2), accumulated=True),
    "accumulated ls": step(LS(), accumulated=True),
    "representation": step(FairGrad(alpha=2), represented=True),
    "representation ls": step(LS(), represented=True),
}


def alone(model, forward, part):
    backward(
        model.errors(forward(model.inputs[part])[1], part),
        FairGrad(2),
        **model.groups,
        process_group=None,
    )


def overflow_in_one(model, forward, part):
    losses = model.errors(forward(model.inputs[part])[1], part)
    losses[0] = losses[0] * (1e300 if part == HALVES[1] else 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    method = Fixed(1, 1, 1)
    accumulator = Accumulator(**model.groups, scaler=scaler)
    accumulator.add(losses)
    report = accumulator.backward(method)
    return {"skipped": report["skipped"], "calls": torch.tensor(len(method.seen))}


def refusals(model, forward, part):
    losses = model.errors(forward(model.inputs[part])[1], part)
    losses[2] = losses[2] * 0 - (5 if part == HALVES[1] else -1)
    with pytest.raises(ValueError, match="task 2's loss is -2: fixed needs losses of at least 0"):
        backward(losses, Fixed(1, 1, 1, positive=True), **model.groups)
    z, outputs = forward(model.inputs[part])
    with pytest.raises(ValueError, match=r"^drawn .*every coordinate"):
        backward(model.errors(outputs, part), Drawn(), **model.groups, representation=z)


def reached_in_one(model, forward, part):
    """Gradients of parameters that both, the second or no process reaches; noise by default."""
    torch.manual_seed(0 if part == HALVES[0] else 1)
    both, one, none = (torch.ones(2, requires_grad=True) for _ in range(3))
    w = both * one if part == HALVES[1] else both
    for method in (LS(), FairGrad(2), make_method("rlw"), make_method("graddrop")):
        backward([w.sum(), w.square().sum()], method, shared=[both, one, none], retain_graph=True)
    return {"both": both.grad, "one": one.grad, "none": none.grad}


OTHERS = {
    "alone": alone,
    "overflow": overflow_in_one,
    "refusals": refusals,
    "reached in one": reached_in_one,
}


def work(rank, folder):
    with two_processes(rank, folder):
        found = {}
        for name, take in {**STEPS, **OTHERS}.items():
            model = Heads()
            wrapped = DistributedDataParallel(model)
            with wrapped.no_sync():
                report = take(model, wrapped, HALVES[rank])
            found[name] = model.grads(), report
        torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the two processes found: name -> (grads, report)."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", STEPS)
def test_both_processes_write_what_one_with_the_whole_batch_does(found, name):
    (grads, report), (others, other_report) = found[0][name], found[1][name]
    assert_same(others, grads, rtol=0, atol=0)
    assert_same(other_report.values(), report.values(), rtol=0, atol=0)
    model = Heads()
    expected = STEPS[name](model, model, WHOLE)
    assert_same(grads, model.grads(), **EXACT)
    assert_same(
        [part.double() for part in report.values()],
        [part.double() for part in expected.values()],
        **EXACT,
    )


def test_without_a_group_every_process_is_alone(found):
    for rank in range(2):
        model = Heads()
        alone(model, model, HALVES[rank])
        assert_same(found[rank]["alone"][0], model.grads(), **EXACT)
    assert not torch.equal(found[0]["alone"][0][0], found[1]["alone"][0][0])


def test_an_overflow_in_one_process_skips_the_step_in_both(found):
    for rank in range(2):
        grads, report = found[rank]["overflow"]
        assert report["skipped"] and report["calls"] == 0
        assert not any(gradient.isfinite().any() for gradient in grads)


def test_a_parameter_that_one_process_reaches_gets_the_same_gradient_in_both(found):
    first, second = (found[rank]["reached in one"][1] for rank in range(2))
    assert first["none"] is None and second["none"] is None
    for name in ("both", "one"):
        assert first[name].any() and torch.equal(first[name], second[name])


def test_what_is_refused_in_both_processes_leaves_no_gradient(found):
    assert all(gradient is None for rank in range(2) for gradient in found[rank]["refusals"][0])


def test_another_word_for_a_group_is_refused():
    model = Heads()
    with pytest.raises(ValueError, match="process_group='all' is not allowed"):
        backward(model.losses(), LS(), **model.groups, process_group="all")
