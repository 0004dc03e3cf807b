"""UW, uncertainty weighting.

Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry
and Semantics", 2018, arXiv 1705.07115. Minimised over the parameters and over one learned number
per task, `s_i = log σ_i²`:

    Σ_i ½ (e^(−s_i) l_i + s_i),   that is   w_i = ½ e^(−s_i).

The fixed point is `e^(s_i) = l_i`: the weights tend to `1/(2 l_i)`, half of SI's, smoothed over
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from torch import Tensor

from mtrl_fairgrad.weighting.adam import Adam
from mtrl_fairgrad.weighting.base import Weights
from mtrl_fairgrad.weighting.options import Number
from mtrl_fairgrad.weighting.positive import PositiveLossWeighting


class UW(PositiveLossWeighting):
    """Weights from learned uncertainties.

    Needs positive losses or zeros, and `init`; costs one ordinary backward pass. Every call returns
    the weights and then takes one step of Adam on s, as an optimiser of parameters and s would. The
    diagnostic `log_variance` `[..., K]` is the s of the weights.

    Args:
        learning_rate: step size of s, positive; 0.025 as in the supervised code of Nash-MTL and
            FairGrad.
        initial: initial s, finite; fixed by `init`.

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "uw"

    learning_rate = Number(above=0)
    initial = Number(before_init=True)
    log_variance: Tensor
    adam: Adam

    def __init__(self, learning_rate: float = 0.025, initial: float = 0.0) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.initial = initial

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Set the sizes and the initial s; see `Method.init`."""
        super().init(tasks, batch_shape, template)
        self._add_state("log_variance", (*self.batch_shape, tasks), value=self.initial)
        self.adam = Adam((*self.batch_shape, tasks)).to(self._device)
        return self

    def reset(self) -> None:
        """Return to the state right after `init`."""
        super().reset()
        if self.tasks is not None:
            self.adam.reset()

    def _weigh(self, losses: Tensor, valid: Tensor) -> Weights:
        self._check_shape(losses.shape)
        log_variance = self.log_variance.clone()
        precision = (-log_variance).exp()
        gradient = 0.5 * (1 - precision * losses)
        self.adam.step(self.log_variance, gradient, valid, self.learning_rate)
        return Weights(0.5 * precision, {"log_variance": log_variance})
