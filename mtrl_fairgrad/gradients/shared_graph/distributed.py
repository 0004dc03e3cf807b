"""Means and sums over the processes that train one model on parts of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:  # not every build of PyTorch has it
    from torch.distributed import ProcessGroup

Group: TypeAlias = "ProcessGroup | str | None"


class Processes:
    """The processes of a group; with a single process every operation returns its argument.

    Args:
        group: `"default"` for the default group of `torch.distributed` where it is initialised;
            None for this process alone.

    Raises:
        ValueError: the string is not allowed.
    """

    def __init__(self, group: Group) -> None:
        if isinstance(group, str) and group != "default":
            raise ValueError(
                f'process_group={group!r} is not allowed: give "default", a ProcessGroup or None.'
            )
        if group == "default":
            group = dist.group.WORLD if dist.is_available() and dist.is_initialized() else None
        self.size = 1 if group is None else dist.get_world_size(group)
        self._group = group if self.size > 1 else None

    def ranks(self) -> list[int]:
        """Return the ranks of the processes, in ascending order."""
        if not (dist.is_available() and dist.is_initialized()):
            return [0]
        group = self._group
        return sorted(dist.get_process_group_ranks(group)) if group else [dist.get_rank()]

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes, with equal bits on each, without changing `tensor`."""
        if self._group is None:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self._group)  # pyright: ignore[reportUnknownMemberType]
        return total

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over processes, with equal bits on each, without changing `tensor`."""
        return tensor if self._group is None else self.sum(tensor) / self.size

    def mean_(self, tensor: Tensor) -> None:
        """Replace a contiguous `tensor` by its mean over processes, in place."""
        if self._group is not None:
            dist.all_reduce(tensor, group=self._group)  # pyright: ignore[reportUnknownMemberType]
            tensor /= self.size

    def first(self, tensor: Tensor) -> Tensor:
        """Broadcast the first process's tensor."""
        if self._group is None:
            return tensor
        received = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(received, group=self._group, group_src=0)
        return received
