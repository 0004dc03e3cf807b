"""CUDA tensors without data, on a machine without a GPU: code meets devices, shapes and types only.

A fake tensor has no values, so what the code does where it would use a GPU can be followed on any
machine. Code that looks at a value raises, as `DataDependentOutputException` for example.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, library
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

DEVICE = torch.device("cuda:0")
"""The device of the tensors. Without an index PyTorch would ask the driver."""
_device_seen_by_cpp = torch.ops.prim.device.default
_private: Any = fake_tensor
for _name in ("_fused_adam_", "_fused_adamw_"):
    # PyTorch 2.13 describes these only where the learning rate is a number; they return nothing.
    library.impl(f"aten::{_name}.tensor_lr", "Meta", lambda *arguments, **options: None)
_torch: Any = torch  # some attributes are not annotated
_functorch = _torch._C._functorch
CONSTANTS = (torch.arange, torch.linspace)
"""Functions that make constants within `torch.func`."""


@contextmanager
def fake_cuda() -> Generator[None]:
    """Let tensors that the block creates be fake, on `DEVICE` if the code asks for it.

    PyTorch without CUDA cannot guard a CUDA device or differentiate there. So its C++ code is told
    that the tensors are on the CPU, while Python code, such as that of this project, sees `DEVICE`.
    """
    handlers = _private._DISPATCH_META_HANDLERS
    original = handlers[_device_seen_by_cpp]
    fake: Any = FakeTensor

    def device_for_cpp(arguments: Any) -> torch.device:
        device = original(arguments)
        return torch.device("cpu") if device.type == "cuda" else device

    handlers[_device_seen_by_cpp] = device_for_cpp
    fake.is_cuda = property(lambda tensor: tensor.device.type == "cuda")
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _Copies():
            yield
    finally:
        handlers[_device_seen_by_cpp] = original
        del fake.is_cuda


class _Copies(TorchFunctionMode):
    """Makes the copies between devices that C++ code omits because it sees one device only.

    Within `torch.func` Python code, too, sees the device of C++: a constant made there on the
    device of another tensor is put on `DEVICE`.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.cuda:
            function, args = Tensor.to, (args[0], DEVICE)
        if function is Tensor.cpu:
            function, args, kwargs = Tensor.to, (args[0], torch.device("cpu")), {}
        if function is Tensor.to and type(args[0]) is FakeTensor:
            target = _target(*args[1:], **kwargs)
            if target is not None and target.type != args[0].device.type:
                moved = torch.ops.aten._to_copy.default(args[0], device=target)
                others = [each for each in args[1:] if isinstance(each, torch.dtype)]
                others += [each.dtype for each in args[1:] if isinstance(each, Tensor)]
                dtype = kwargs.get("dtype", others[0] if others else None)
                return moved if dtype is None else moved.to(dtype)
        if function is Tensor.pin_memory:
            return args[0]
        if function in CONSTANTS and "device" in kwargs and _functorch.maybe_current_level():
            kwargs = {**kwargs, "device": DEVICE}
        return function(*args, **kwargs)


def _target(*arguments: Any, **options: Any) -> torch.device | None:
    """Return the device that the arguments of `Tensor.to` name; None for none."""
    for each in (*arguments, options.get("device"), options.get("other")):
        if isinstance(each, Tensor):
            return each.device
        if isinstance(each, str | torch.device):
            return torch.device(each)
    return None


def answer_with_fakes(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """Handle a call of an `on_host` function: call it with zeros and return fakes of its result."""
    with _disable_current_modes():
        arguments, options = tree_map_only(FakeTensor, _zeros, (arguments, options))
        result = function(*arguments, **options)
    return tree_map_only(
        Tensor, lambda each: torch.empty(each.shape, dtype=each.dtype, device=DEVICE), result
    )


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tuple(tensor.shape), dtype=tensor.dtype)
