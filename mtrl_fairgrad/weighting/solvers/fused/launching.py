"""The shapes and options of a launch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST_BLOCK = 16
"""Problems of fewer tasks are padded to this size: smaller ones would leave threads idle."""


def block_of(tasks: int) -> int:
    """Return the power of two to which a problem is padded."""
    return max(SMALLEST_BLOCK, 1 << (tasks - 1).bit_length())


def options_of(block: int) -> dict[str, object]:
    """Return Triton's launch options.

    One warp needs no barriers for the smallest block; otherwise a thread holds 8 or 16 of the
    matrix's numbers, so that two matrices fit into its registers.
    """
    return {"num_warps": {16: 1, 32: 4, 64: 8}[block], "enable_fp_fusion": True}


def as_problems(tensor: Tensor | None, shape: torch.Size, axes: int) -> Tensor | None:
    """Expand a tensor to a shape and flatten it to contiguous `[N, …]` with so many last axes."""
    if tensor is None:
        return None
    leading = math.prod(shape[: len(shape) - axes])
    return tensor.expand(shape).reshape(leading, *shape[len(shape) - axes :]).contiguous()
