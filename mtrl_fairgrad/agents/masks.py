"""Protect rows of stacked tensors: row s of a tensor `[S, ...]` belongs to seed s.

A mask is a bool tensor `[S]`. On a CPU an empty mask costs nothing; on a GPU, where looking at it
would wait for the device, every mask is applied.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.products import align

_torch: Any = torch  # some functions are not annotated


class RowSnapshot:
    """Copies of tensors `[S, ...]`, from which single rows can be restored in place."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = list(tensors)
        self._copies = [tensor.clone() for tensor in self._tensors]

    def restore(self, rows: Tensor) -> None:
        """Write the copied values back into the selected `rows`, `[S]` bool."""
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            torch.where(align(rows, tensor), copy, tensor, out=tensor)


def may_select(rows: Tensor) -> bool:
    """Return False if the mask `rows` is known to be empty without waiting for a device."""
    return rows.device.type != "cpu" or bool(rows.any())


@contextmanager
def preserve_rows(rows: Tensor, tensors: Iterable[Tensor]) -> Generator[None]:
    """Undo what the block does to the selected `rows`, `[S]` bool, of `tensors` `[S, ...]`."""
    if not may_select(rows):
        yield
        return
    before = RowSnapshot(tensors)
    yield
    before.restore(rows)


def move_towards(
    targets: Sequence[Tensor], sources: Sequence[Tensor], share: float, rows: Tensor
) -> None:
    """Move `targets` `[S, ...]` by this share of the way to `sources`, except for these `rows`.

    Args:
        targets: changed in place.
        sources: of the same shapes.
        share: from 0 to 1.
        rows: `[S]` bool.
    """
    if rows.device.type != "cpu":
        return move_masked(targets, sources, share, rows)
    with preserve_rows(rows, targets):
        for target, source in zip(targets, sources, strict=True):
            target.lerp_(source, share)


def move_masked(
    targets: Sequence[Tensor], sources: Sequence[Tensor], share: float, rows: Tensor
) -> None:
    """Do so without a look at the mask: the selected rows move by a share of 0."""
    shares = torch.where(rows, 0.0, share).to(targets[0].dtype)
    if len(shares) > 1:
        for target, source in zip(targets, sources, strict=True):
            target.lerp_(source, align(shares, target))
        return
    steps = _torch._foreach_sub(sources, targets)
    _torch._foreach_mul_(steps, shares.squeeze(0))
    _torch._foreach_add_(targets, steps)
