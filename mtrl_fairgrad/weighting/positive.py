"""Base class of loss weightings for losses that are not negative."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import LossWeighting, Weights, nonnegative_or_nan


class PositiveLossWeighting(LossWeighting):
    """A loss weighting for finite losses of at least 0; subclasses define `_weigh`.

    It must be finite at a loss of exactly 0.
    """

    needs_positive_losses = True

    def forward(self, losses: Tensor) -> Weights:
        """Compute weights.

        Args:
            losses: `[..., K]`, finite and not negative.

        Returns:
            Weights `[..., K]` in the losses' dtype (float32 for half precision). An element of the
            leading axes with any other loss gets NaN, and its state does not change.

        Raises:
            ValueError: a method with state was not initialised, or for a different shape.
        """
        seen = self._see(losses)
        valid = (seen < math.inf).all(-1, keepdim=True)  # False for NaN
        weights, diagnostics = self._weigh(seen, valid)
        weights = torch.where(valid, weights, torch.nan)
        return Weights(weights.to(torch.promote_types(losses.dtype, torch.float32)), diagnostics)

    def _see(self, losses: Tensor) -> Tensor:
        """Return what `_weigh` sees of losses `[..., K]`: float64, NaN where they are not allowed.

        NaN for all tasks of an element of the leading axes.
        """
        return nonnegative_or_nan(losses)

    def _weigh(self, losses: Tensor, valid: Tensor) -> Weights:
        """Compute weights in float64 and update the state where `valid`.

        Args:
            losses: `[..., K]` float64 from `_see`, not finite where not `valid`.
            valid: `[..., 1]` bool, whether all losses of an element are finite and allowed.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define _weigh.")
