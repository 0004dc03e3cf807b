"""MoCo, multi-objective gradient correction.

Fernando, Shen, Liu, Chaudhury, Murugesan and Chen, "Mitigating Gradient Bias in Multi-objective
Learning: A Provably Convergent Approach", 2023, arXiv 2210.12624.

The common descent direction of stochastic gradients is biased for any step size. MoCo therefore
keeps a moving average `y_i` of every task's gradient, the columns of Y, and moves the weights λ
towards the convex combination of least norm by one gradient step per call,

    y_i ← y_i − β_t (y_i − g_i),                     β_t = β / t^σ
    λ ← Proj(λ − γ_t (YᵀY λ + ρ λ)),                 γ_t = γ / t^τ
    d = Y λ

from `y_i = 0` and `λ_i = 1/K` at `t = 1`, with the projection onto the simplex. The step
in λ is proportional to squared gradient norms, so γ must match their scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting import simplex
from mtrl_fairgrad.weighting.base import Aggregate
from mtrl_fairgrad.weighting.options import Choice, Number
from mtrl_fairgrad.weighting.products import contract, gramian
from mtrl_fairgrad.weighting.template import AveragingAggregation


class MoCo(AveragingAggregation):
    """Convex combination of averaged gradients.

    Its state is K gradients and the weights. Costs one Jacobian and its Gramian.

    Args:
        beta: rate at which the averages follow the gradients at the first call, in (0, 1].
        beta_decay: the exponent σ of the number of calls that divides beta, at least 0.
        gamma: step size of the weights at the first call, positive.
        gamma_decay: the exponent τ of the number of calls that divides gamma, at least 0.
        rho: regularisation ρ of the weights towards equality, at least 0.
        projection: `"simplex"` for the nearest point, as in the paper; `"softmax"` as in LibMTL's
            code, which keeps all weights positive and starts every step from the last softmax.
            (That code also scales every gradient to its loss as norm, which this does not.)

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "moco"

    beta = Number(above=0, at_most=1)
    beta_decay = Number(at_least=0)
    gamma = Number(above=0)
    gamma_decay = Number(at_least=0)
    rho = Number(at_least=0)
    projection = Choice("simplex", "softmax")
    shares: Tensor
    """λ, `[..., K]` float64."""

    def __init__(
        self,
        beta: float = 0.5,
        beta_decay: float = 0.5,
        gamma: float = 0.1,
        gamma_decay: float = 0.5,
        rho: float = 0.0,
        projection: str = "simplex",
    ) -> None:
        super().__init__()
        self.beta = beta
        self.beta_decay = beta_decay
        self.gamma = gamma
        self.gamma_decay = gamma_decay
        self.rho = rho
        self.projection = projection

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Set the averages to 0 and the weights to 1/K.

        Raises:
            ValueError: no task, no template, or one with other leading axes or tasks.
        """
        super().init(tasks, batch_shape, template)
        self._add_state("shares", (*self.batch_shape, tasks), 1 / tasks)
        return self

    @torch.no_grad()
    def forward(self, jacobian: Mapping[str, Tensor]) -> Aggregate:
        """Compute the direction for a Jacobian and update averages and weights.

        Args:
            jacobian: name -> `[..., K, *shape]`, names and shapes as in the template.

        Returns:
            name -> `[..., *shape]` in the template's dtype, with the diagnostic `weights`
            `[..., K]`, λ. NaN for an element of the leading axes with a non-finite entry; its state
            does not change.

        Raises:
            ValueError: not initialised, or a Jacobian unlike the template.
        """
        rows = self._ordered(jacobian)
        calls = (self.calls + 1)[..., None]
        beta, gamma = self.beta / calls**self.beta_decay, self.gamma / calls**self.gamma_decay
        averages = self._blend(rows, 1 - beta, beta)
        products = gramian(averages, len(self.batch_shape))
        valid = products.isfinite().all(-1).all(-1)
        slope = (products.double() @ self.shares[..., None])[..., 0] + self.rho * self.shares
        moved = self.shares - gamma * slope
        shares = simplex.project(moved) if self.projection == "simplex" else moved.softmax(-1)
        self._accept(averages, valid)
        self.shares.copy_(torch.where(valid[..., None], shares, self.shares))
        weights = torch.where(valid[..., None], shares, torch.nan)
        return Aggregate(contract(weights, averages), {"weights": weights.to(products.dtype)})

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        return (
            f"beta={self.beta:g}, beta_decay={self.beta_decay:g}, gamma={self.gamma:g}, "
            f"gamma_decay={self.gamma_decay:g}, rho={self.rho:g}, projection={self.projection}"
        )
