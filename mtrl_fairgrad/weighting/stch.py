"""STCH, smooth Tchebycheff scalarisation.

Lin, Zhang, Yang, Liu, Wang and Zhang, "Smooth Tchebycheff Scalarization for Multi-Objective
Optimization", 2024, arXiv 2402.19078, in the form of the authors' multi-task code and of LibMTL: a
smooth maximum of logarithmic losses.

The first calls, the warm-up, minimise `Σ_i log l_i`, so `w_i = 1/l_i`; their mean losses are the
nadir. From then on

    K μ log Σ_i exp(log(l_i / nadir_i) / μ),

that is, with

    w_i = K softmax(log(l / nadir) / μ)_i / l_i:

the task with the least progress below its nadir gets the most weight: all of it as μ → 0, equal
weights as μ → ∞. As in the authors' code, 10⁻²⁰ is added to the losses of the warm-up and to
`l / nadir`, which makes weights finite at a loss of 0; where their nadir would be 0, it is 10⁻⁸.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import SMALLEST_DIVISOR, Weights
from mtrl_fairgrad.weighting.options import Number, Whole
from mtrl_fairgrad.weighting.positive import PositiveLossWeighting

EPSILON = 1e-20


class STCH(PositiveLossWeighting):
    """Weights of a smooth maximum of relative losses.

    Needs positive losses or zeros, and `init`; costs one ordinary backward pass. The diagnostic
    `nadir` `[..., K]` is the mean of the losses so far during the warm-up.

    Args:
        mu: smoothness μ of the maximum, positive.
        warmup: number of calls whose mean losses are the nadir, at least 1. The authors' code
            counts epochs and averages over the last epoch of its warm-up.

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "stch"

    mu = Number(above=0)
    warmup = Whole(at_least=1)
    total: Tensor
    calls: Tensor

    def __init__(self, mu: float = 1.0, warmup: int = 500) -> None:
        super().__init__()
        self.mu = mu
        self.warmup = warmup

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Set the sizes and start the warm-up; see `Method.init`."""
        super().init(tasks, batch_shape, template)
        self._add_state("total", (*self.batch_shape, tasks))
        self._add_state("calls", (*self.batch_shape, 1), dtype=torch.int64)
        return self

    def _weigh(self, losses: Tensor, valid: Tensor) -> Weights:
        self._check_shape(losses.shape)
        warming = self.calls < self.warmup
        counts = warming & valid
        self.calls += counts
        torch.where(counts, self.total + losses, self.total, out=self.total)
        nadir = self.total / self.calls
        scale = nadir.clamp(min=SMALLEST_DIVISOR)
        shares = ((losses / scale + EPSILON).log() / self.mu).softmax(-1)
        smooth = losses.shape[-1] * shares / (losses + EPSILON * scale)
        return Weights(torch.where(warming, 1 / (losses + EPSILON), smooth), {"nadir": nadir})
