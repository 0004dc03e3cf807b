"""A network's loss together with all that it is computed from: parameters, batch, context."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.agents.optimizer import OptimizedParameters
from mtrl_fairgrad.gradients.per_task import (
    CapturedLoss,
    Combined,
    TaskGradients,
    TaskLoss,
    combine,
    task_gradients,
    task_losses,
)
from mtrl_fairgrad.weighting import Method


class BatchLoss(NamedTuple):
    """A task loss on one batch, at whatever values the parameters have when it is computed."""

    loss: TaskLoss
    parameters: OptimizedParameters
    """The network that is differentiated and trained."""
    inputs: tuple[Tensor | Tensors, ...]
    """The tasks' data, each `[S, K, ...]`; the last one a tensor."""
    context: Tensors | None = None
    """Shared parameters of other networks, name -> `[S, ...]`; not differentiated."""

    def combined(self, method: Method, **options: Any) -> Combined:
        """Combine the task gradients by `method`; options as in `gradients.per_task.combine`."""
        return combine(method, *self._arguments, **self._apart, **options)

    def gradients(self, halves: bool = False) -> TaskGradients:
        """Compute all task gradients, as the loss is written: nothing is captured for them.

        Args:
            halves: of the two halves of each task's batch, see `gradients.per_task.task_gradients`.
        """
        loss, *others = self._arguments
        plain = loss.loss if isinstance(loss, CapturedLoss) else loss
        return task_gradients(plain, *others, **self._apart, halves=halves)

    def values(self) -> Tensor:
        """Compute the losses alone, `[S, K]`."""
        return task_losses(*self._arguments, **self._apart)

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return self.loss, self.parameters.shared, *self.inputs

    @property
    def _apart(self) -> dict[str, Any]:
        return {"own": self.parameters.own, "context": self.context}
