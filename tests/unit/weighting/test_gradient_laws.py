"""Laws of all methods that remember or randomise gradients: batches, memory, faults, scales,
dtypes, devices.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad import backward
from mtrl_fairgrad.weighting import (
    JacobianAggregation,
    Method,
    contract,
    gramian,
    jacobian_like,
    make_method,
)
from mtrl_fairgrad.weighting.host import host_calls
from scripts.benchmarking.fake_cuda import DEVICE, answer_with_fakes, fake_cuda
from tests.unit.weighting.helpers import as_jacobian, as_vector, loss_course

TASKS, SIZE, CALLS = 4, 6, 6

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "pcgrad": ("pcgrad", {}),
    "gradvac": ("gradvac", {"beta": 0.5}),
    "graddrop": ("graddrop", {"leak": 0.1}),
    "moco": ("moco", {}),
    "moco-softmax": ("moco", {"projection": "softmax"}),
    "db_mtl": ("db_mtl", {}),
}
REMEMBER = [case for case in METHODS if case not in ("pcgrad", "graddrop")]
AGGREGATE = [case for case in METHODS if case not in ("pcgrad", "gradvac")]

every = pytest.mark.parametrize("case", METHODS)
remembering = pytest.mark.parametrize("case", REMEMBER)
aggregating = pytest.mark.parametrize("case", AGGREGATE)


def made(case: str, rows: Tensor) -> Method:
    """Made for gradients like `[..., K, P]`."""
    name, options = METHODS[case]
    *batch, tasks, _ = rows.shape
    return make_method(name, **options).init(tasks, tuple(batch), as_jacobian(rows))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def gradients(*shape: int, seed: int = 0) -> Tensor:
    """With conflicts and a strong common component, by turns."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, SIZE, generator=generator, dtype=torch.float64)
    rows[::2] += 1.5 * torch.randn(SIZE, generator=generator, dtype=torch.float64)
    return rows


def answer(
    method: Method, rows: Tensor, losses: Tensor, noise: Tensor | None
) -> tuple[dict[str, Tensor], Any]:
    """Direction and diagnostics for gradients `[..., K, P]`."""
    jacobian = as_jacobian(rows)
    if isinstance(method, JacobianAggregation):
        return method(jacobian, **method.accepted(losses=losses, noise=noise))
    weights, diagnostics = method(
        gramian(jacobian, rows.ndim - 2), **method.accepted(losses=losses, noise=noise)
    )
    return contract(weights, jacobian), diagnostics


def answers(
    method: Method, course: Tensor, streams: list[torch.Generator], skip: int | None = None
) -> Tensor:
    """Directions `[calls, ..., P]` for gradients `[calls, ..., K, P]`; `skip` is a call only the
    streams see.
    """
    losses, axes = loss_course(*course.shape[:-1]).to(course.dtype), course.ndim - 3
    found = []
    for call, rows in enumerate(course):
        noise = method.draw(streams)
        if call != skip:
            found.append(as_vector(answer(method, rows, losses[call], noise)[0], axes))
    return torch.stack(found)


@every
def test_an_element_of_a_batch_is_answered_as_alone(case: str) -> None:
    course = gradients(CALLS, 2, 2, TASKS)
    losses = loss_course(CALLS, 2, 2, TASKS)
    together = answers(made(case, course[0]), course, generators(0, 1, 2, 3))
    for place in range(4):
        index, method, stream = (
            (place // 2, place % 2),
            made(case, course[0, 0, 0]),
            generators(place),
        )
        for call in range(CALLS):
            alone, _ = answer(
                method, course[call, *index], losses[call, *index], method.draw(stream)
            )
            torch.testing.assert_close(
                together[call, *index], as_vector(alone), rtol=1e-12, atol=1e-12
            )


@every
def test_reset_returns_to_the_beginning(case: str) -> None:
    course = gradients(CALLS, 2, TASKS)
    method, fresh = made(case, course[0]), made(case, course[0])
    first = answers(method, course, generators(0, 1))
    method.reset()
    assert method.state_dict().keys() == fresh.state_dict().keys()
    for name, value in fresh.state_dict().items():
        assert torch.equal(method.state_dict()[name], value), name
    assert torch.equal(answers(method, course, generators(0, 1)), first)


@every
def test_a_saved_method_continues(case: str) -> None:
    course = gradients(CALLS, 2, TASKS)
    method, loaded = made(case, course[0]), made(case, course[0])
    answers(method, course[:2], generators(0, 1))
    loaded.load_state_dict(copy.deepcopy(method.state_dict()))
    expected = answers(method, course[2:], generators(2, 3))
    assert torch.equal(answers(loaded, course[2:], generators(2, 3)), expected)


@every
def test_what_is_remembered(case: str) -> None:
    course = gradients(CALLS, TASKS)
    method = made(case, course[0])
    last = answers(method, course, generators(0))[-1]
    streams = generators(0)
    for _ in range(CALLS - 1):
        method.draw(streams)
    alone = made(case, course[0])
    losses = loss_course(CALLS, TASKS)[-1]
    without_past = as_vector(answer(alone, course[-1], losses, alone.draw(streams))[0])
    assert (case in REMEMBER) != torch.equal(last, without_past)
    assert (case in REMEMBER) == bool(method.state_dict())


@every
def test_answers_are_neither_state_nor_graph(case: str) -> None:
    rows = gradients(CALLS, TASKS).requires_grad_()
    method, losses = made(case, rows[0]), loss_course(CALLS, TASKS).requires_grad_()
    direction, diagnostics = answer(method, rows[0], losses[0], method.draw(generators(0)))
    first = [*map(torch.clone, direction.values()), *map(torch.clone, diagnostics.values())]
    answer(method, rows[1], losses[1], method.draw(generators(1)))
    for before, after in zip(first, [*direction.values(), *diagnostics.values()], strict=True):
        assert torch.equal(before, after)
    for diagnostic in diagnostics.values():
        assert diagnostic.shape in ((), (TASKS,)) and not diagnostic.requires_grad
    if case in AGGREGATE:
        assert not any(part.requires_grad for part in direction.values())
    assert not any(buffer.requires_grad for buffer in method.buffers())


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [0, 2])
@every
def test_a_faulty_entry_concerns_its_element_and_call_alone(
    case: str, at: int, fault: float
) -> None:
    course = gradients(CALLS, 2, TASKS)
    faulty = course.clone()
    faulty[at, 0, 1, SIZE - 1] = fault
    found = answers(made(case, course[0]), faulty, generators(0, 1))
    clean = answers(made(case, course[0]), course, generators(0, 1))
    assert torch.equal(found[:, 1], clean[:, 1])
    assert found[at, 0].isnan().all()
    others = [call for call in range(CALLS) if call != at]
    never_seen = answers(made(case, course[0]), course, generators(0, 1), skip=at)
    torch.testing.assert_close(found[others, 0], never_seen[:, 0], rtol=1e-14, atol=0)


@every
def test_diagnostics_of_a_faulty_entry_are_nan(case: str) -> None:
    rows = gradients(2, TASKS)
    rows[0, 0, 0] = torch.nan
    method = made(case, rows)
    _, diagnostics = answer(
        method, rows, loss_course(1, 2, TASKS)[0], method.draw(generators(0, 1))
    )
    for name, diagnostic in diagnostics.items():
        assert diagnostic[0].isnan().all(), name
        assert diagnostic[1].isfinite().all(), name


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float64, 10.0**power) for power in (-15, -8, 0, 8, 15)]
    + [(torch.float32, 10.0**power) for power in (-6, 6)],
)
@every
def test_every_scale_has_a_finite_answer_of_its_size(
    case: str, dtype: torch.dtype, scale: float
) -> None:
    course = (scale * gradients(CALLS, 2, TASKS)).to(dtype)
    method = made(case, course[0])
    found = answers(method, course, generators(0, 1))
    assert found.dtype == dtype
    assert found.isfinite().all()
    assert (found.norm(dim=-1) < 100 * scale).all() or case == "db_mtl"  # which divides by losses
    assert (found.norm(dim=-1) > 1e-3 * scale).all()
    assert all(buffer.isfinite().all() for buffer in method.buffers())


@pytest.mark.parametrize("case", ["pcgrad", "gradvac", "graddrop", "db_mtl"])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_a_common_scale_is_the_directions(case: str, scale: float) -> None:
    course = gradients(CALLS, TASKS)
    plain = answers(made(case, course[0]), course, generators(0))
    scaled = answers(made(case, course[0]), scale * course, generators(0))
    torch.testing.assert_close(scaled / scale, plain, rtol=1e-9, atol=1e-9)


@every
def test_single_precision_is_close_to_double(case: str) -> None:
    course = gradients(CALLS, TASKS).float()
    streams = generators(0)
    double = made(case, course[0].double())
    if case == "graddrop":  # each dtype has numbers of its own
        noise = double.draw(streams).float()
        expected = as_vector(
            double(as_jacobian(course[0].double()), noise=noise.double()).direction
        )
        found = as_vector(made(case, course[0])(as_jacobian(course[0]), noise=noise).direction)
    else:
        expected, found = (answers(m, c, generators(0))[-1] for m, c in [
            (double, course.double()), (made(case, course[0]), course)
        ])  # fmt: skip
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every
def test_half_precision(case: str, dtype: torch.dtype) -> None:
    course = gradients(2, TASKS).to(dtype)
    method = made(case, course[0])
    for rows, losses in zip(course, loss_course(2, TASKS), strict=True):
        direction, diagnostics = answer(method, rows, losses, method.draw(generators(0)))
        assert all(part.dtype == dtype and part.isfinite().all() for part in direction.values())
        assert not any(
            value.dtype in (torch.float16, torch.bfloat16) for value in diagnostics.values()
        )
    for name, buffer in method.named_buffers():
        assert buffer.dtype == (dtype if name.startswith("average") else torch.float64)


@every
def test_no_value_is_looked_at(case: str) -> None:
    """Fake tensors have none: asking for one is an error, except in a function on the host."""
    rows = gradients(2, TASKS)
    method = made(case, rows)
    noise = method.draw(generators(0, 1))
    losses = loss_course(1, 2, TASKS)[0]
    with fake_cuda(), host_calls(answer_with_fakes):
        noise = noise if noise is None else noise.to(DEVICE)
        direction, _ = answer(method.to(DEVICE), rows.to(DEVICE), losses.to(DEVICE), noise)
    assert as_vector(direction, 1).shape == (2, SIZE)


@every
def test_state_changes_in_place(case: str) -> None:
    course = gradients(2, TASKS)
    method = made(case, course[0])
    places = {name: buffer.data_ptr() for name, buffer in method.named_buffers()}
    answers(method, course, generators(0))
    method.reset()
    assert {name: buffer.data_ptr() for name, buffer in method.named_buffers()} == places


@every
def test_init_again_forgets_the_former_sizes(case: str) -> None:
    course = gradients(2, TASKS)
    name, options = METHODS[case]
    method = make_method(name, **options).init(
        7, (3,), {str(i): torch.ones(3, 7, 2) for i in range(5)}
    )
    method.init(TASKS, (), as_jacobian(course[0]))
    assert torch.equal(
        answers(method, course, generators(0)),
        answers(made(case, course[0]), course, generators(0)),
    )
    assert method.state_dict().keys() == made(case, course[0]).state_dict().keys()


@pytest.mark.parametrize("tasks", [1, 2])
@every
def test_backward_takes_it(case: str, tasks: int) -> None:
    layer = torch.nn.Linear(3, 2)
    parameters = list(layer.parameters())
    name, options = METHODS[case]
    method = make_method(name, **options).init(tasks, template=jacobian_like(parameters, tasks))
    inputs = torch.randn(tasks, 3, generator=torch.Generator().manual_seed(0))
    losses = [layer(row).square().sum() for row in inputs]
    backward(losses, method, shared=parameters, noise=method.draw(generators(0)))
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all() and parameter.grad.any()


@aggregating
def test_a_jacobian_of_other_parameters_is_refused(case: str) -> None:
    rows = gradients(TASKS)
    jacobian = as_jacobian(rows)
    losses = torch.ones(TASKS)
    name, options = METHODS[case]
    fresh = make_method(name, **options)
    with pytest.raises(ValueError, match=rf"^{name} .* call init\("):
        fresh(jacobian, **fresh.accepted(losses=losses))
    with pytest.raises(ValueError, match=rf"^{name} .* call init\(tasks=4, template=.*\)"):
        fresh.init(TASKS)
    with pytest.raises(
        ValueError, match=r"template\['scale'\] of shape \(4,\) is not allowed: .* \(2,\)"
    ):
        fresh.init(2, (), {"scale": torch.ones(4)})
    method = made(case, rows)
    optional = method.accepted(losses=losses, noise=method.draw(generators(0)))
    wrong = {**jacobian, "layer.bias": torch.ones(TASKS, 5)}
    with pytest.raises(
        ValueError,
        match=rf"'layer.bias'\] is of shape \(4, 5\) but was of shape \(4, 1\) in {name}'s",
    ):
        method(wrong, **optional)
    with pytest.raises(ValueError, match=r"'scale'\] is missing but was of shape \(4,\)"):
        method(
            {key: jacobian[key] for key in ("layer.weight", "layer.bias")},
            **optional,
        )
    with pytest.raises(ValueError, match=r"'more'\] is of shape \(4, 2\) but was missing"):
        method({**jacobian, "more": torch.ones(TASKS, 2)}, **optional)
