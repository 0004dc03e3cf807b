"""Laws of all loss weightings: batches, memory, faulty losses, dtypes, devices."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting import LossWeighting, make_method
from tests.unit.weighting.helpers import loss_course

TASKS = 3
CALLS = 9

# Small windows and warm-ups, so that a few calls pass through all of a method's life.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "si": ("si", {}),
    "rlw": ("rlw", {}),
    "dwa": ("dwa", {"window": 2}),
    "dwa-epochs": ("dwa", {"window": 2, "sliding": False}),
    "uw": ("uw", {"initial": 0.5}),
    "famo": ("famo", {"min_loss": 0.01}),
    "stl": ("stl", {"task": 1}),
    "stch": ("stch", {"warmup": 3}),
}
NEED_POSITIVE = [case for case in METHODS if case not in ("rlw", "stl")]
REMEMBER = [case for case in NEED_POSITIVE if case != "si"]
NEED_INIT = [*REMEMBER, "rlw"]

every = pytest.mark.parametrize("case", METHODS)
needing_positive = pytest.mark.parametrize("case", NEED_POSITIVE)
remembering = pytest.mark.parametrize("case", REMEMBER)
needing_init = pytest.mark.parametrize("case", NEED_INIT)


def made(case: str, batch_shape: tuple[int, ...] = ()) -> LossWeighting:
    name, options = METHODS[case]
    method = make_method(name, **options).init(TASKS, batch_shape)
    assert isinstance(method, LossWeighting)
    return method


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def answers(
    method: LossWeighting, losses: Tensor, streams: list[torch.Generator], skip: int | None = None
) -> Tensor:
    """Weights `[calls, ..., K]` for losses `[calls, ..., K]`, each step having lowered the losses
    by a tenth; `skip` is a call that only the random streams see."""
    found = []
    for call, seen in enumerate(losses):
        noise = method.draw(streams)
        if call != skip:
            found.append(method(seen, **method.accepted(noise=noise)).weights)
            method.after_step(seen * torch.linspace(0.95, 0.85, TASKS, dtype=torch.float64))
    return torch.stack(found)


@every
def test_an_element_of_a_batch_is_answered_as_alone(case: str) -> None:
    losses = loss_course(CALLS, 2, 2, TASKS)
    together = answers(made(case, (2, 2)), losses, generators(4))
    for place in range(4):
        index = (place // 2, place % 2)
        alone = answers(made(case), losses[:, *index], [generators(4)[place]])
        torch.testing.assert_close(together[:, *index], alone, rtol=1e-14, atol=0)


@every
def test_reset_returns_to_the_beginning(case: str) -> None:
    losses = loss_course(CALLS, 2, TASKS)
    method, fresh = made(case, (2,)), made(case, (2,))
    first = answers(method, losses, generators(2))
    method.reset()
    assert method.state_dict().keys() == fresh.state_dict().keys()
    for name, value in fresh.state_dict().items():
        assert torch.equal(method.state_dict()[name], value), name
    assert torch.equal(answers(method, losses, generators(2)), first)


@pytest.mark.parametrize("at", [1, 3, 6])
@every
def test_a_saved_method_continues(case: str, at: int) -> None:
    losses, streams = loss_course(CALLS, 2, TASKS), generators(2)
    method, loaded = made(case, (2,)), made(case, (2,))
    answers(method, losses[:at], streams)
    loaded.load_state_dict(copy.deepcopy(method.state_dict()))
    states = [stream.get_state() for stream in streams]
    expected = answers(method, losses[at:], streams)
    for stream, state in zip(streams, states, strict=True):
        stream.set_state(state)
    assert torch.equal(answers(loaded, losses[at:], streams), expected)


@remembering
def test_memory_matters(case: str) -> None:
    losses = loss_course(CALLS, TASKS)
    assert not torch.equal(
        answers(made(case), losses, [])[-1], answers(made(case), losses[-1:], [])[-1]
    )


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf, -1e-6, -1.0])
@pytest.mark.parametrize("at", [0, 4, 7])
@needing_positive
def test_a_faulty_loss_concerns_its_element_and_call_alone(
    case: str, at: int, fault: float
) -> None:
    losses = loss_course(CALLS, 2, TASKS)
    faulty = losses.clone()
    faulty[at, 0, 1] = fault
    found = answers(made(case, (2,)), faulty, generators(2))
    clean = answers(made(case, (2,)), losses, generators(2))
    assert torch.equal(found[:, 1], clean[:, 1])
    assert found[at, 0].isnan().all()
    others = [call for call in range(CALLS) if call != at]
    never_seen = answers(made(case), losses[:, 0], generators(1), skip=at)
    assert torch.equal(found[others, 0], never_seen)


@every
def test_weights_are_constants_of_the_losses_precision(case: str) -> None:
    losses = loss_course(1, TASKS)[0]
    for given, answered in (
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ):
        method = made(case)
        before = losses.to(given).requires_grad_()
        weights, diagnostics = method(before, **method.accepted(noise=method.draw(generators(1))))
        method.after_step(before)
        assert weights.dtype == answered
        assert not any(
            tensor.requires_grad for tensor in (weights, *diagnostics.values(), *method.buffers())
        )


@every
def test_what_was_answered_stays(case: str) -> None:
    """Diagnostics and weights are no views of what the next call changes."""
    method = made(case)
    kept: list[Tensor] = []
    copies: list[Tensor] = []
    for seen in loss_course(CALLS, TASKS):
        weights, diagnostics = method(seen, **method.accepted(noise=method.draw(generators(1))))
        method.after_step(0.9 * seen)
        kept += [weights, *diagnostics.values()]
        copies += [tensor.clone() for tensor in (weights, *diagnostics.values())]
    for tensor, copied in zip(kept, copies, strict=True):
        torch.testing.assert_close(tensor, copied, rtol=0, atol=0, equal_nan=True)


@every
def test_nothing_depends_on_values_on_the_host(case: str) -> None:
    """Tensors on the meta device have no values: reading one fails, as it would hold up a GPU."""
    losses = torch.ones(CALLS, 2, TASKS, device="meta", dtype=torch.float64)
    method = made(case, (2,))
    noise = method.draw(generators(2))
    method.to("meta")
    for seen in losses:
        assert method(
            seen, **method.accepted(noise=None if noise is None else noise.to("meta"))
        ).weights.shape == (
            2,
            TASKS,
        )
        method.after_step(seen)


@needing_init
def test_init_is_asked_for(case: str) -> None:
    name, options = METHODS[case]
    method = make_method(name, **options)
    with pytest.raises(ValueError, match=rf"^{name} .*init\(tasks=3\)"):
        method(torch.ones(TASKS), **method.accepted(noise=torch.ones(TASKS)))


@needing_init
def test_losses_of_another_shape_are_refused(case: str) -> None:
    method = made(case, (2,))
    with pytest.raises(ValueError, match=r"losses of shape \(2, 3\) but got \(3,\)"):
        method(torch.ones(TASKS), **method.accepted(noise=torch.ones(2, TASKS)))


def test_needs() -> None:
    assert [case for case in METHODS if made(case).needs_positive_losses] == NEED_POSITIVE
    assert [case for case in METHODS if made(case).looks_after_step] == ["famo"]
    assert [case for case in METHODS if made(case).draw(generators(1)) is not None] == ["rlw"]
