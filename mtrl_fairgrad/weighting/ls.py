"""Linear scalarisation: every task counts the same."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_fairgrad.utils.validation import check_choice
from mtrl_fairgrad.weighting.base import LossWeighting, Weights


class LS(LossWeighting):
    """Linear scalarisation, the usual multi-task baseline: minimise the sum or the mean of the
    losses.

    Args:
        reduction: `"sum"` weights every loss 1, `"mean"` 1/K, which is what most
            reinforcement-learning code means by multi-task training. Under a scale-free optimiser
            such as Adam the two train alike.

    Raises:
        ValueError: any other reduction.
    """

    name = "ls"

    def __init__(self, reduction: str = "sum") -> None:
        super().__init__()
        self.reduction = check_choice("reduction", reduction, ("sum", "mean"))

    def forward(self, losses: Tensor, noise: Tensor | None = None) -> Weights:
        """Weights `[..., K]`, all 1 or all 1/K, in the losses' dtype, whatever the losses."""
        share = 1.0 if self.reduction == "sum" else 1.0 / losses.shape[-1]
        return Weights(torch.full_like(losses, share, requires_grad=False), {})
