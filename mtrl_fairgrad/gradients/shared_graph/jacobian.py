"""The gradients of K losses of one graph, added up."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtrl_fairgrad.gradients.shared_graph.backward_passes import Pass, chosen, one_pass
from mtrl_fairgrad.gradients.shared_graph.grad_writer import Destination


@dataclass
class Rows:
    """The sum of the gradients of some micro-batches' K losses in this process, without the
    scaler's factor.
    """

    losses: Tensor
    """`[K]`."""
    jacobian: dict[str, Tensor]
    """Position of a shared parameter (or of a representation's tensor) -> `[K, *shape]`."""
    room: dict[int, Tensor]
    """Position of an own parameter no task has reached yet -> zeros `[*shape]`.

    There from the start, because small tensors that are made during a pass and outlive it would
    break up the heap, so that it grows with every pass: on Linux by up to a third of the
    Jacobian."""
    own: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])
    """(position of an own parameter, a task that reaches it) -> `[*shape]`."""

    @classmethod
    def none(cls, tasks: int, at: Sequence[Tensor], to: Destination) -> Rows:
        """The sum of no gradients yet, for K `tasks`."""

        def zeros(tensor: Tensor) -> Tensor:
            # A representation may have half precision, where a gradient without the scaler's factor
            # would vanish.
            dtype = (
                tensor.dtype
                if to.scaler is None
                else torch.promote_types(tensor.dtype, torch.float32)
            )
            return torch.zeros((tasks, *tensor.shape), dtype=dtype, device=tensor.device)

        room = {
            position: torch.zeros_like(own, requires_grad=False)
            for position, own in enumerate(to.own)
        }
        jacobian = {str(i): zeros(tensor) for i, tensor in enumerate(at)}
        return cls(torch.zeros(tasks, device=at[0].device), jacobian, room)

    def add(
        self,
        losses: Sequence[Tensor],
        at: Sequence[Tensor],
        to: Destination,
        tasks_per_pass: int | None = None,
        retain_graph: bool = False,
    ) -> None:
        """Add the gradients of K losses `at` these tensors, by passes of `tasks_per_pass` tasks,
        None for `chosen`.

        Raises:
            RuntimeError: a pass failed; what the passes before it found has been added.
        """
        scale = to.scale(self.losses.device)
        end = 1 + max(
            task for task, loss in enumerate(losses) if loss.requires_grad
        )  # nothing to do for the others
        size = chosen(end, self.jacobian.values()) if tasks_per_pass is None else tasks_per_pass
        first = 0
        while first < end:
            last = min(first + size, end)
            try:
                self._add(
                    first,
                    one_pass(losses[first:last], at, to.own, scale, retain_graph or last < end),
                    scale,
                )
            except RuntimeError as error:
                if tasks_per_pass is not None or size == 1 or first > 0:
                    raise
                warnings.warn(f"{error} Meanwhile the tasks go one by one.", stacklevel=3)
                size = 1
            else:
                first = last
        self.losses = self.losses + torch.stack([loss.detach() for loss in losses])

    def _add(self, first: int, found: Pass, scale: Tensor) -> None:
        """Add what was found of the tasks from `first` on."""
        tasks = slice(first, first + len(found.own))
        for rows, gradient in zip(self.jacobian.values(), found.shared, strict=True):
            if gradient is not None:
                rows[tasks].addcdiv_(gradient, scale)
        for task, gradients in enumerate(found.own, start=first):
            for position, gradient in enumerate(gradients):
                if gradient is not None:
                    self._own(position, task, gradient).addcdiv_(gradient, scale)

    def _own(self, position: int, task: int, like: Tensor) -> Tensor:
        """Where the gradients of an own parameter go."""
        if (position, task) not in self.own:
            room = self.room.pop(position, None)
            self.own[position, task] = torch.zeros_like(like) if room is None else room
        return self.own[position, task]

    def own_sums(self, own: Sequence[Tensor], weights: Tensor | None) -> list[Tensor]:
        """Every own parameter's gradient of the sum of the losses, each times its weight if there
        are any `[K]`.
        """
        sums = [torch.zeros_like(parameter, requires_grad=False) for parameter in own]
        for (position, task), gradient in self.own.items():
            sums[position] += gradient if weights is None else weights[task] * gradient
        return sums
