"""Calls of functions that `on_host` decorates, for tensors without values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_map_only

from mtrl_fairgrad.weighting.host import device_of


class HostCallsOnZeros:
    """A handler of `host_calls` for fake or meta tensors: computes with zeros of their shapes.

    Results have the right shapes, and no values either.
    """

    def __init__(self) -> None:
        self.functions: list[str] = []
        """Names of the functions that were called."""

    def __call__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        self.functions.append(function.__qualname__)
        device = device_of(arguments, options)
        with unset_fake_temporarily():
            arguments, options = tree_map_only(Tensor, _zeros, (arguments, options))
            result = function(*arguments, **options)
        return tree_map_only(
            Tensor, lambda each: torch.empty(each.shape, dtype=each.dtype, device=device), result
        )


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype)
