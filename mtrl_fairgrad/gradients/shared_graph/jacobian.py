"""The sum of the task gradients of several micro-batches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtrl_fairgrad.gradients.shared_graph import tensor_lists
from mtrl_fairgrad.gradients.shared_graph.backward_passes import (
    PassGradients,
    default_tasks_per_pass,
    one_pass,
)
from mtrl_fairgrad.gradients.shared_graph.grad_writer import GradWriter, coordinates
from mtrl_fairgrad.gradients.shared_graph.reach import Reach
from mtrl_fairgrad.gradients.shared_graph.sharded import shard_of
from mtrl_fairgrad.weighting.products import GRAMIAN_CHUNK, Joined, flatten, joinable, real_view


@dataclass
class GradientRows:
    """Gradients of K losses in this process, summed over micro-batches.

    They do not contain the scaler's factor. All are dense and real: see `coordinates`.
    """

    losses: Tensor
    """`[K]`."""
    jacobian: dict[str, Tensor]
    """Position of a shared parameter (or of a tensor of the representation) -> `[K, *shape]`."""
    reach: Reach
    """Of the tensors of the Jacobian."""
    own_reach: Reach
    """Of the own parameters."""
    spare: dict[int, Tensor]
    """Position of an own parameter that no task has reached yet -> zeros `[*shape]`.

    Allocated in advance: small tensors that are created during a pass and outlive it would fragment
    the heap, which would grow with every pass, on Linux by up to a third of the Jacobian.
    """
    own: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])
    """(position of an own parameter, index of a task that reaches it) -> `[*shape]`."""

    @classmethod
    def zeros(cls, tasks: int, at: Sequence[Tensor], writer: GradWriter) -> GradientRows:
        """Make an empty sum for K `tasks`."""

        def zero_rows(tensor: Tensor) -> Tensor:
            tensor = real_view(shard_of(tensor))
            # In a representation's half precision, a gradient without the scaler's factor could
            # underflow.
            dtype = (
                tensor.dtype
                if writer.scaler is None
                else torch.promote_types(tensor.dtype, torch.float32)
            )
            return torch.zeros((tasks, *tensor.shape), dtype=dtype, device=tensor.device)

        spare = dict(enumerate(_zeros(writer.own)))
        views = [real_view(shard_of(tensor)) for tensor in at]
        jacobian: dict[str, Tensor]
        if joinable(views) and writer.scaler is None and writer.processes.size == 1:
            size = sum(view.numel() for view in views)
            whole = views[0].new_zeros(tasks, size + -size % GRAMIAN_CHUNK)
            jacobian = Joined(whole, {str(i): view.shape for i, view in enumerate(views)})
        else:
            jacobian = {str(i): zero_rows(tensor) for i, tensor in enumerate(at)}
        losses = torch.zeros(tasks, device=at[0].device)
        return cls(losses, jacobian, Reach(len(at)), Reach(len(writer.own)), spare)

    def add(
        self,
        losses: Sequence[Tensor],
        at: Sequence[Tensor],
        writer: GradWriter,
        tasks_per_pass: int | None = None,
        retain_graph: bool = False,
    ) -> None:
        """Add the gradients of K losses by the tensors `at`.

        Args:
            losses: K scalars.
            at: shared parameters or the tensors of a representation.
            writer: own parameters and the scaler.
            tasks_per_pass: number of tasks in a pass; None for `default_tasks_per_pass`.
            retain_graph: keep the graph after the last pass.

        Raises:
            RuntimeError: a pass failed; the results of the passes before it have been added.
        """
        scale = writer.scale(self.losses.device)
        # Tasks from `end` on have no gradient.
        end = 1 + max(task for task, loss in enumerate(losses) if loss.requires_grad)
        size = (
            default_tasks_per_pass(end, self.jacobian.values())
            if tasks_per_pass is None
            else tasks_per_pass
        )
        first = 0
        while first < end:
            last = min(first + size, end)
            try:
                self._add(
                    first,
                    one_pass(losses[first:last], at, writer.own, scale, retain_graph or last < end),
                    None if writer.scaler is None else scale,
                )
            except RuntimeError as error:
                if tasks_per_pass is not None or size == 1 or first > 0:
                    raise
                warnings.warn(f"{error} Falling back to one pass per task.", stacklevel=3)
                size = 1
            else:
                first = last
        self.losses = self.losses + torch.stack([loss.detach() for loss in losses])

    def _add(self, first: int, gradients: PassGradients, scale: Tensor | None) -> None:
        """Add the gradients of one pass over the tasks from `first` on, divided by the `scale`."""
        tasks = slice(first, first + len(gradients.own))
        self.reach.note_all(gradients.shared)
        sums, parts = list[Tensor](), list[Tensor]()
        for rows, gradient in zip(self.jacobian.values(), gradients.shared, strict=True):
            if gradient is not None:
                sums.append(rows[tasks])
                parts.append(coordinates(gradient).reshape_as(sums[-1]))
        if isinstance(self.jacobian, Joined) and len(parts) == len(self.jacobian):
            whole = torch.cat([flatten(part, 1) for part in parts], 1)
            self.jacobian.whole[tasks, : whole.shape[1]] += whole
            sums, parts = list[Tensor](), list[Tensor]()
        for task, own in enumerate(gradients.own, start=first):
            self.own_reach.note_all(own)
            for position, gradient in enumerate(own):
                if gradient is not None:
                    parts.append(coordinates(gradient))
                    sums.append(self._own(position, task, parts[-1]))
        tensor_lists.add_(sums, parts, scale)

    def _own(self, position: int, task: int, like: Tensor) -> Tensor:
        """Return the tensor that sums the gradients of an own parameter and a task."""
        if (position, task) not in self.own:
            spare = self.spare.pop(position, None)
            self.own[position, task] = torch.zeros_like(like) if spare is None else spare
        return self.own[position, task]

    def own_sums(self, own: Sequence[Tensor], weights: Tensor | None) -> list[Tensor]:
        """Return every own parameter's gradient of the sum of the losses.

        Args:
            own: the own parameters.
            weights: weights of the losses, `[K]`; None for plain gradients.
        """
        sums = _zeros(own)
        left: list[tuple[tuple[int, int], Tensor]] = list(self.own.items())
        while left:  # in each round, the first that is left for every parameter
            first = {position: task for (position, task), _ in reversed(left)}
            now = [each for each in left if first[each[0][0]] == each[0][1]]
            left = [each for each in left if first[each[0][0]] != each[0][1]]
            tensor_lists.add_(
                [sums[position] for (position, _), _ in now],
                [part if weights is None else weights[task] * part for (_, task), part in now],
            )
        return sums


def _zeros(parameters: Sequence[Tensor]) -> list[Tensor]:
    return tensor_lists.zeros_like([real_view(shard_of(parameter)) for parameter in parameters])
