"""Operations on lists of tensors, which a GPU does in few launches for the whole list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_torch: Any = torch  # these functions have no complete type annotations


def zeros_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return zeros like each tensor."""
    if not any(tensor.is_cuda for tensor in tensors):
        return [torch.zeros_like(tensor) for tensor in tensors]
    zeros = [torch.empty_like(tensor) for tensor in tensors]
    _torch._foreach_zero_(zeros)
    return zeros


def add_(sums: Sequence[Tensor], parts: Sequence[Tensor], divisor: Tensor | None = None) -> None:
    """Add to each tensor its part, divided by the `divisor` `[]` if there is one, in place."""
    if divisor is not None:
        for total, part in zip(sums, parts, strict=True):
            total.addcdiv_(part, divisor)
    elif sums:
        _torch._foreach_add_(list(sums), list(parts))


def copy_(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source to its target."""
    if targets:
        _torch._foreach_copy_(list(targets), list(sources))
