"""FAMO, fast adaptive multi-task optimisation.

Liu, Feng, Stone and Liu, "FAMO: Fast Adaptive Multitask Optimization", 2023, arXiv 2306.03792.
Lets the logarithms of all losses fall at equal rates without task gradients. With learned logits ξ,
`z = softmax(ξ)` and the distances `D_i = l_i − min_i + 10⁻⁸` from a lower bound of each loss, a
step descends `c Σ_i z_i log D_i`,

    w_i = c z_i / D_i,   c = 1 / Σ_j (z_j / D_j).

After the step, the losses of the same batch show what it did to each task,

    δ_i = log D_i (before) − log D_i (after),

and ξ takes a step of Adam along `z ∘ (δ − zᵀδ)`, the gradient of zᵀδ with δ fixed: tasks with more
progress get less weight.

The authors' reinforcement-learning code multiplies by 1/c instead of c, unlike the paper and their
other code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.adam import Adam
from mtrl_fairgrad.weighting.base import Weights, nonnegative_or_nan
from mtrl_fairgrad.weighting.options import Number, NumberPerTask, check_tasks
from mtrl_fairgrad.weighting.positive import PositiveLossWeighting

EPSILON = 1e-8


class FAMO(PositiveLossWeighting):
    """Weights that balance the losses' relative progress.

    Needs losses of at least `min_loss`, `init` and `after_step`. Costs one ordinary backward pass,
    and one forward pass for the losses after the step. The diagnostic `logits` `[..., K]` is the ξ
    of the weights.

    Args:
        learning_rate: step size of ξ, positive.
        gamma: weight decay of ξ, at least 0. 0.01 in the authors' reinforcement learning.
        min_loss: lower bound of the losses, of any sign, or a sequence with one for each task;
            fixed by `init`. A loss below it gives NaN weights.

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "famo"

    learning_rate = Number(above=0)
    gamma = Number(at_least=0)
    min_loss = NumberPerTask(before_init=True)
    looks_after_step = True
    logits: Tensor
    before: Tensor
    adam: Adam
    bounds: Tensor

    def __init__(
        self,
        learning_rate: float = 0.025,
        gamma: float = 0.01,
        min_loss: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.gamma = gamma
        self.min_loss = min_loss
        self._stepping = False

    @property
    def lowest_loss(  # pyright: ignore[reportIncompatibleVariableOverride]
        self,
    ) -> float | Sequence[float]:
        """`min_loss`."""
        return self.min_loss

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Set the sizes and the initial ξ; see `Method.init`.

        Raises:
            ConfigError: `min_loss` has another number of bounds than 1 or `tasks`.
        """
        check_tasks("min_loss", self.min_loss, tasks)
        super().init(tasks, batch_shape, template)
        # No state, but a tensor, because a CUDA graph cannot copy numbers from the host.
        bounds = torch.tensor(self.min_loss, dtype=torch.float64, device=self._device)
        self.register_buffer("bounds", bounds, persistent=False)
        self._add_state("logits", (*self.batch_shape, tasks))
        self._add_state("before", (*self.batch_shape, tasks))
        self.adam = Adam((*self.batch_shape, tasks)).to(self._device)
        self._stepping = False
        return self

    def reset(self) -> None:
        """Return to the state right after `init`."""
        super().reset()
        if self.tasks is not None:
            self.adam.reset()
        self._stepping = False

    def _see(self, losses: Tensor) -> Tensor:
        """Return `l_i − min_i`."""
        self._check_shape(losses.shape)
        # A float32 loss equals its bound if the bound's float32 does.
        bounds = self.bounds.to(losses.dtype).double()
        return nonnegative_or_nan(losses.double() - bounds)

    def _weigh(self, losses: Tensor, valid: Tensor) -> Weights:
        if self._stepping:
            raise RuntimeError(
                "famo was called twice without after_step: call after_step(losses) with the losses "
                "of the same batch after every optimiser step."
            )
        torch.log(losses + EPSILON, out=self.before)
        self._stepping = True
        logits = self.logits.clone()
        return Weights((logits - self.before).softmax(-1), {"logits": logits})

    def after_step(self, losses: Tensor) -> None:
        """Update ξ from the losses `[..., K]` of the same batch after the optimiser step.

        Does nothing without a preceding call, as after a step that mixed precision skipped.

        Raises:
            ValueError: not initialised, or the shape differs.
        """
        seen = self._see(losses)
        if not self._stepping:
            return
        self._stepping = False
        change = self.before - (seen + EPSILON).log()
        shares = self.logits.softmax(-1)
        gradient = shares * (change - (shares * change).sum(-1, keepdim=True))
        finite = change.isfinite().all(-1, keepdim=True)
        self.adam.step(self.logits, gradient, finite, self.learning_rate, self.gamma)
