"""LS, linear scalarisation: equal weights."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import LossWeighting, Weights
from mtrl_fairgrad.weighting.options import Choice


class LS(LossWeighting):
    """Linear scalarisation: minimise the sum or the mean of the losses, the usual baseline.

    Args:
        reduction: `"sum"` gives every loss the weight 1, `"mean"` 1/K, as most multi-task
            reinforcement-learning code does; the command line's default is `mean`, see
            `configs/method/ls.yaml`. Under a scale-free optimiser such as Adam the two are
            equivalent.

    Raises:
        ValueError: the reduction is not allowed.
    """

    name = "ls"

    reduction = Choice("sum", "mean")

    def __init__(self, reduction: str = "sum") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, losses: Tensor) -> Weights:
        """Return weights `[..., K]`, all 1 or all 1/K, in the losses' dtype."""
        share = 1.0 if self.reduction == "sum" else 1.0 / losses.shape[-1]
        return Weights(torch.full_like(losses, share, requires_grad=False), {})
