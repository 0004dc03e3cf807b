"""STL, single-task learning: the reference of every multi-task method."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import LossWeighting, Weights
from mtrl_fairgrad.weighting.options import Whole


class STL(LossWeighting):
    """Weight 1 for one task, 0 for the others. Stateless; costs one ordinary backward pass.

    In reinforcement learning `method=stl` trains K independent agents instead.

    Args:
        task: index of the task, from 0.

    Raises:
        ValueError: not an integer of at least 0.
    """

    name = "stl"

    task = Whole(at_least=0)

    def __init__(self, task: int = 0) -> None:
        super().__init__()
        self.task = task

    def forward(self, losses: Tensor) -> Weights:
        """Return weights `[..., K]` in the losses' dtype (float32 for half precision).

        Raises:
            ValueError: there is no such task.
        """
        tasks = losses.shape[-1]
        if self.task >= tasks:
            raise ValueError(
                f"task={self.task} does not exist among {tasks} tasks: give an integer from 0 to "
                f"{tasks - 1}."
            )
        dtype = torch.promote_types(losses.dtype, torch.float32)
        weights = torch.zeros(losses.shape, dtype=dtype, device=losses.device)
        weights[..., self.task] = 1
        return Weights(weights, {})
