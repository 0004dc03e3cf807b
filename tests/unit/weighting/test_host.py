"""Functions for the CPU, called with tensors of another device: fake ones, without values."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mtrl_fairgrad.weighting import GramianWeighting, alpha_fair, make_method, method_names
from mtrl_fairgrad.weighting.host import host_calls, on_host
from scripts.benchmarking.fake_cuda import DEVICE, answer_with_fakes, fake_cuda
from scripts.benchmarking.launches import traced

TASKS = 5
AT_MOST = 16
"""Launches besides the solve: what a method does with its state, or with the losses."""

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in method_names() if isinstance(make_method(name), GramianWeighting)),
    ("fairgrad", {"solver": "sgd"}),
    ("fairgrad", {"solver": "least_squares"}),
    ("fairgrad", {"alpha": 0}),
    ("nash_mtl", {"normalize": "frobenius"}),
    ("nash_mtl", {"update_weights_every": 2}),
    ("mgda", {"normalize": "loss+"}),
]
every = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else str(value)
)


class Pair(NamedTuple):
    """A nested result."""

    total: Tensor
    more: dict[str, Tensor]


def test_a_function_sees_the_cpu_and_its_results_go_back_to_the_device() -> None:
    seen = list[str]()

    @on_host
    def function(given: Tensor, factor: float, other: Tensor | None = None) -> Pair:
        seen.extend(each.device.type for each in (given, other) if each is not None)
        return Pair(given.sum(), {"scaled": given * factor})

    with fake_cuda():
        given = torch.ones(3, 2, device=DEVICE)
        result = function(given, 2.0, other=torch.ones(1))
    assert seen == ["cpu", "cpu"]
    assert isinstance(result, Pair)
    assert result.total.device == result.more["scaled"].device == DEVICE
    assert result.more["scaled"].shape == (3, 2)


def test_on_the_cpu_a_function_gets_the_arguments_themselves() -> None:
    given = torch.ones(3)
    with host_calls(lambda *_: pytest.fail("nothing has to be copied")):
        assert on_host(lambda tensor: tensor)(given) is given


def test_a_handler_makes_the_calls_of_its_block_only() -> None:
    calls = list[tuple[tuple[int, ...], dict[str, int]]]()
    double = on_host(lambda tensor, times=1: 2 * times * tensor)

    def handler(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        calls.append((tuple(arguments[0].shape), options))
        return arguments[0]

    with fake_cuda():
        given = torch.ones(3, device=DEVICE)
        with host_calls(handler):
            assert double(given, times=3) is given
        assert double(given) is not given
    assert calls == [((3,), {"times": 3})]


@every
def test_a_gramian_method_is_one_kernel_or_one_function_on_the_host(
    name: str, options: dict[str, Any]
) -> None:
    with fake_cuda():
        method = make_method(name, **options).init(TASKS, (2,)).to(DEVICE)
        gramian, others = inputs((2,))
        with traced() as found:
            method(gramian, **method.accepted(**others))
    kernels = sum(count for name, count in found.operations.items() if "mtrl_fairgrad" in name)
    assert kernels + found.host_calls.total() == 1
    assert found.launches - kernels <= AT_MOST
    assert kernels == kernel(name, options)


def kernel(name: str, options: dict[str, Any]) -> bool:
    """Return whether there is a kernel for the method."""
    on_host = options.get("alpha") == 0 or options.get("solver") == "least_squares"
    return name in ("fairgrad", "nash_mtl") and not on_host


def inputs(batch: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a fake Gramian and the optional arguments."""
    return torch.ones(*batch, TASKS, TASKS, device=DEVICE), {
        "losses": torch.ones(*batch, TASKS, device=DEVICE),
        "noise": torch.zeros(*batch, TASKS, TASKS, dtype=torch.int64, device=DEVICE),
    }


def test_more_tasks_than_a_kernel_holds_are_solved_on_the_host() -> None:
    method = make_method("fairgrad")
    with fake_cuda():
        gramian = torch.ones(100, 100, device=DEVICE)
        with traced() as found:
            method(gramian)
    assert found.host_calls.total() == 1 and not found.launches


@every
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_function_on_the_host_does_not_change_or_return_its_arguments(
    name: str, options: dict[str, Any], wrapped: bool
) -> None:
    def handler(function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        def checked(*given: Any, **options: Any) -> Any:
            tensors = [each for each in given if isinstance(each, Tensor)]
            assert len(tensors) == sum(isinstance(each, Tensor) for each in arguments)
            for each in tensors:  # losses and targets, too
                each.copy_(torch.eye(TASKS)[: each.shape[-2], : each.shape[-1]])
            before = [each.clone() for each in tensors]
            result = function(*given, **options)
            assert all(map(torch.equal, tensors, before))
            places = {each.untyped_storage().data_ptr() for each in tensors}
            assert all(
                each.untyped_storage().data_ptr() not in places for each in tree_leaves(result)
            )
            calls.append(function)
            return result

        return answer_with_fakes(checked, arguments, options)

    calls = list[Any]()
    method = make_method(name, **options)
    method = alpha_fair(method, 0.5) if wrapped else method
    with fake_cuda(), host_calls(handler):
        method.init(TASKS, (2,)).to(DEVICE)
        gramian, others = inputs((2,))
        method(gramian, **method.accepted(**others))
    assert len(calls) == (not kernel(name, options))
