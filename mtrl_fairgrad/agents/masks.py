"""Protect rows of stacked tensors: row s of a tensor `[S, ...]` belongs to seed s.

A mask is a bool tensor `[S]`. On a CPU an empty mask costs nothing; on a GPU, where looking at it
would wait for the device, every mask is applied.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor

from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.weighting.products import align


class RowSnapshot:
    """Copies of tensors `[S, ...]`, from which single rows can be restored in place."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = list(tensors)
        self._copies = [tensor.clone() for tensor in self._tensors]

    def restore(self, rows: Tensor) -> None:
        """Write the copied values back into the selected `rows`, `[S]` bool."""
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(torch.where(align(rows, tensor), copy, tensor))


def may_select(rows: Tensor) -> bool:
    """Return False if the mask `rows` is known to be empty without waiting for a device."""
    return rows.device.type != "cpu" or torch.compiler.is_compiling() or bool(rows.any())


@contextmanager
def preserve_rows(rows: Tensor, tensors: Iterable[Tensor]) -> Generator[None]:
    """Undo what the block does to the selected `rows`, `[S]` bool, of `tensors` `[S, ...]`."""
    if not may_select(rows):
        yield
        return
    before = RowSnapshot(tensors)
    yield
    before.restore(rows)


def zero_rows(rows: Tensor, tensors: Tensors) -> Tensors:
    """Return `tensors` `[S, ...]` with zeros in the selected `rows`, `[S]` bool."""
    return {name: torch.where(align(rows, tensor), 0, tensor) for name, tensor in tensors.items()}
