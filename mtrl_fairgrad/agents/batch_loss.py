"""A network's loss together with all that it is computed from: parameters, batch, context."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.agents.optimizer import OptimizedParameters
from mtrl_fairgrad.gradients.per_task import (
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
        return self._call(lambda *inputs, **keywords: combine(method, *inputs, **keywords), options)

    def gradients(self) -> TaskGradients:
        """Compute all task gradients."""
        return self._call(task_gradients, {})

    def values(self) -> Tensor:
        """Compute the losses alone, `[S, K]`."""
        return self._call(task_losses, {})

    def _call(self, function: Any, options: dict[str, Any]) -> Any:
        shared, own = self.parameters.shared, self.parameters.own
        return function(self.loss, shared, *self.inputs, own=own, context=self.context, **options)
