"""What the loss weightings for positive losses share around their equations."""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import LossWeighting, Weights, positive_or_nan


class PositiveLossWeighting(LossWeighting):
    """A loss weighting whose equation holds for positive, finite losses; a method defines `_weigh`."""

    needs_positive_losses = True

    def forward(self, losses: Tensor) -> Weights:
        """Weights for losses.

        Args:
            losses: `[..., K]`, positive and finite.

        Returns:
            Weights `[..., K]` in the losses' dtype (float32 for half precision). An element of the
            leading axes with any other loss gets NaN, and what the method remembers of it stays as
            it was.

        Raises:
            ValueError: a method with state was not initialised, or for another shape.
        """
        seen, valid = self._seen(losses)
        weights, diagnostics = self._weigh(seen, valid)
        weights = torch.where(valid, weights, torch.nan)
        return Weights(weights.to(torch.promote_types(losses.dtype, torch.float32)), diagnostics)

    def _weigh(self, losses: Tensor, valid: Tensor) -> Weights:
        """The equation, in float64, for what `_seen` answered; state changes only where `valid`."""
        raise NotImplementedError(f"{type(self).__name__} defines no _weigh.")

    def _seen(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """The losses in float64, and `[..., 1]` whether all losses of an element are positive and
        finite.
        """
        seen = positive_or_nan(losses)
        return seen, seen.isfinite().all(-1, keepdim=True)
