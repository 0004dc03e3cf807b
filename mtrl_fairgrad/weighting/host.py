"""Computation on the CPU for tensors of any device.

The equations of a method have K unknowns. NumPy solves them in a fraction of a millisecond, less
than a GPU needs for the hundreds of launches that the same iteration takes there. So functions of
Gramians are written once, for the CPU, and decorated by `on_host`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

P = ParamSpec("P")
R = TypeVar("R")

_torch: Any = torch  # `torch.compiler.disable` would import the compiler, which takes seconds

Handler = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Takes a function for the CPU and its arguments, of which some tensors are on another device;
returns its result, with tensors on that device."""

_handler: ContextVar[Handler | None] = ContextVar("handler", default=None)


def on_host(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a pure function of CPU tensors to take tensors of one device.

    Arguments are copied to the CPU and the results back, which waits for the device; within
    `host_calls` its handler does so. The result may be any nesting of tensors; arguments that are
    tensors are not nested. The function may not change them. `torch.compile` does not trace it.
    """

    def dispatch(*arguments: P.args, **options: P.kwargs) -> R:
        for each in (*arguments, *options.values()):
            if is_elsewhere(each):
                handle = _handler.get() or _copy_and_call
                return handle(function, arguments, options)
        return function(*arguments, **options)

    untraced = _torch._disable_dynamo(dispatch)

    @functools.wraps(function)
    def anywhere(*arguments: P.args, **options: P.kwargs) -> R:
        call = untraced if torch.compiler.is_compiling() else dispatch
        return call(*arguments, **options)

    return anywhere


@contextmanager
def host_calls(handler: Handler) -> Generator[None]:
    """Let `handler` make the calls of `on_host` functions within the block."""
    token = _handler.set(handler)
    try:
        yield
    finally:
        _handler.reset(token)


def is_elsewhere(value: object) -> bool:
    """Whether `value` is a tensor of another device than the CPU."""
    return isinstance(value, Tensor) and value.device.type != "cpu"


def device_of(arguments: tuple[Any, ...], options: dict[str, Any]) -> torch.device:
    """Return the device of the first tensor that is not on the CPU."""
    return next(each.device for each in (*arguments, *options.values()) if is_elsewhere(each))


def _copy_and_call(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    device = device_of(arguments, options)
    arguments, options = tree_map_only(Tensor, Tensor.cpu, (arguments, options))
    # CUDA copies small tensors aside before it returns, so that nothing has to wait for the end.
    at_once = device.type == "cuda"
    return tree_map_only(
        Tensor, lambda each: each.to(device, non_blocking=at_once), function(*arguments, **options)
    )
