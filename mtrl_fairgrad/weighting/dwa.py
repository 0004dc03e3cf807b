"""DWA, dynamic weight average.

Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention" (MTAN), 2019, arXiv
1803.10704. Tasks whose loss falls more slowly weigh more,

    w = K · softmax(r / T),   r_i = recent mean of l_i / the mean before it,

both means over a window of calls. The larger the temperature T, the more equal the weights. The
official codes fail if a mean is 0. Here means below 10⁻⁸ count as 10⁻⁸, so that a loss that stays 0
has the rate 1 of an unchanged loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import SMALLEST_DIVISOR, Weights
from mtrl_fairgrad.weighting.options import Flag, Number, Whole
from mtrl_fairgrad.weighting.positive import PositiveLossWeighting


class DWA(PositiveLossWeighting):
    """Weights by the losses' rates of change.

    Needs positive losses or zeros, and `init`; costs one ordinary backward pass. It stores the last
    `2 · window` losses of each task; until then the weights are 1. The diagnostic `rate` `[..., K]`
    is the r of the weights, 1 until then.

    Args:
        temperature: T, positive.
        window: number of calls in a mean, at least 1; fixed by `init`.
        sliding: True compares at every call the last `window` losses, including this call's, with
            those before, as the code of Nash-MTL and FairGrad does (which starts earlier, from a
            history of ones). False changes the weights only after every `window` calls: with the
            number of iterations in an epoch as window this is the paper's method.

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "dwa"

    temperature = Number(above=0)
    window = Whole(at_least=1, before_init=True)
    sliding = Flag()
    history: Tensor
    calls: Tensor
    rate: Tensor

    def __init__(self, temperature: float = 2.0, window: int = 25, sliding: bool = True) -> None:
        super().__init__()
        self.temperature = temperature
        self.window = window
        self.sliding = sliding

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Set the sizes and an empty history; see `Method.init`."""
        super().init(tasks, batch_shape, template)
        self._add_state("history", (*self.batch_shape, 2 * self.window, tasks))
        self._add_state("calls", (*self.batch_shape, 1), dtype=torch.int64)
        self._add_state("rate", (*self.batch_shape, tasks), value=1.0)
        return self

    def _weigh(self, losses: Tensor, valid: Tensor) -> Weights:
        self._check_shape(losses.shape)
        self.calls += valid
        longer = torch.cat((self.history[..., 1:, :], losses.unsqueeze(-2)), -2)
        torch.where(valid.unsqueeze(-1), longer, self.history, out=self.history)
        before, recent = (
            self.history[..., : self.window, :].mean(-2).clamp(min=SMALLEST_DIVISOR),
            self.history[..., self.window :, :].mean(-2).clamp(min=SMALLEST_DIVISOR),
        )
        changes = self.calls >= 2 * self.window
        if not self.sliding:
            changes = changes & (self.calls % self.window == 0)
        rate = torch.where(changes, recent / before, self.rate)
        result_rate = rate if self.sliding else self.rate.clone()
        self.rate.copy_(rate)
        return Weights(
            losses.shape[-1] * (result_rate / self.temperature).softmax(-1), {"rate": result_rate}
        )
