"""Capture a function as sections for the device with calls for the CPU between them.

A CUDA graph cannot hold a computation on the CPU. Where a function decorated by
`mtrl_fairgrad.weighting.host.on_host` is called, the current graph ends; the replay copies the
arguments to the CPU, makes the call, copies the results back and goes on with the next graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mtrl_fairgrad.gradients.cuda_recorder import Recorder
from mtrl_fairgrad.utils.faults import first_line
from mtrl_fairgrad.utils.validation import one_line
from mtrl_fairgrad.weighting import host

Function = Callable[..., Any]


class Captured(NamedTuple):
    """A captured function."""

    result: Any
    """Its result; the tensors are valid after a replay, and the next replay overwrites them."""
    steps: tuple[Callable[[], None], ...]
    """Sections and host calls in order."""

    def replay(self) -> None:
        """Do what the function does."""
        for step in self.steps:
            step()


class CaptureError(RuntimeError):
    """A function cannot be captured; the message is a clause with the operation and the cause."""


def capture(function: Callable[[], Any], recorder: Recorder) -> Captured:
    """Capture `function` without running it: only its calls for the CPU are made, with zeros.

    Raises:
        CaptureError: an operation cannot be captured; the device and its generators are as before.
    """
    try:
        return _capture(function, recorder)
    except Exception as error:  # anything that an operation may raise during a capture
        cause = one_line(first_line(error))
        raise CaptureError(f"{_failing_operation(function, recorder)} {cause}") from error


def _capture(function: Callable[[], Any], recorder: Recorder) -> Captured:
    steps: list[Callable[[], None]] = []

    def call(function: Function, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        steps.append(recorder.end())
        step = HostCall(function, arguments, options, recorder)
        steps.append(step)
        recorder.begin()
        return step.results

    with recorder.session():
        recorder.begin()
        with host.host_calls(call):
            result = function()
        steps.append(recorder.end())
    return Captured(result, tuple(steps))


def _failing_operation(function: Callable[[], Any], recorder: Recorder) -> str:
    """Capture again, to learn which operation was the last one; return "at … with".

    The first capture does not watch operations, because `torch.compile` might then not be used.
    """
    watch = LastOperation()

    def watched() -> Any:
        try:
            return function()
        finally:
            watch.ended = True

    try:
        with watch:
            _capture(watched, recorder)
    except Exception:  # the same as before
        return f"at {watch.name} with"
    return "with"


class LastOperation(TorchDispatchMode):
    """Remember the name of the last operation before `ended` is set."""

    name = "its beginning"
    ended = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Note the operation and do it."""
        if not self.ended:
            self.name = str(getattr(func, "_schema", func)).partition("(")[0]
        return func(*args, **(kwargs or {}))


class HostCall:
    """A call of a pure function on the CPU, with arguments and results at fixed addresses.

    Args:
        function: takes tensors of the CPU and returns any nesting of them. It is called with zeros
            first, to learn the shapes of its results.
        arguments: some are tensors of the device, which every call reads.
        options: keyword arguments, likewise.
        recorder: allocates pinned memory and waits for the device.
    """

    def __init__(
        self,
        function: Function,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        recorder: Recorder,
    ) -> None:
        self._function, self._wait = function, recorder.wait
        leaves = [*arguments, *options.values()]
        self._names = tuple(options)
        on_device = [i for i, leaf in enumerate(leaves) if host.is_elsewhere(leaf)]
        self._sources: list[Tensor] = [leaves[i] for i in on_device]
        self._inputs = [recorder.host_like(source) for source in self._sources]
        for i, buffer in zip(on_device, self._inputs, strict=True):
            leaves[i] = buffer.zero_()
        self._arguments = leaves
        device = self._sources[0].device
        with np.errstate(all="ignore"):
            answer = self._answer()
        self._outputs = [recorder.host_like(leaf) for leaf in _tensors(answer)]
        self.results = tree_map_only(
            Tensor, lambda leaf: torch.empty_like(leaf, device=device), answer
        )
        """Results on the device; valid after a call."""
        self._targets = _tensors(self.results)

    def __call__(self) -> None:
        """Read the arguments, call the function and write the results."""
        for buffer, source in zip(self._inputs, self._sources, strict=True):
            buffer.copy_(source, non_blocking=True)
        # The device has then also read the results of the call before, which are overwritten.
        self._wait()
        for buffer, value in zip(self._outputs, _tensors(self._answer()), strict=True):
            buffer.copy_(value)
        for target, buffer in zip(self._targets, self._outputs, strict=True):
            target.copy_(buffer, non_blocking=True)

    def _answer(self) -> Any:
        positional = len(self._arguments) - len(self._names)
        options = dict(zip(self._names, self._arguments[positional:], strict=True))
        return self._function(*self._arguments[:positional], **options)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
