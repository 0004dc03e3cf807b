"""DB-MTL, dual balancing.

Lin, Jiang, Ye, Zhang, Chen, Chen, Liu, Tsang and Kwok, "Dual-Balancing for Multi-Task Learning",
2023, arXiv 2308.12029.

Balances losses by taking their logarithms, and gradients by scaling all of them to the largest
norm,

    ĝ_i ← β_t ĝ_i + (1−β_t) ∇log l_i,               β_t = β / t^σ,   ∇log l_i = g_i / l_i
    d = max_j ‖ĝ_j‖ · Σ_i ĝ_i / ‖ĝ_i‖

from `ĝ_i = 0` at `t = 1`. A constant factor on a loss changes nothing, except near 0: the logarithm
is that of `l_i + 10⁻⁸`, as in LibMTL's code by the same authors, so that a loss may be 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import Aggregate, nonnegative_or_nan
from mtrl_fairgrad.weighting.options import Number
from mtrl_fairgrad.weighting.products import contract, flatten, whole_parts
from mtrl_fairgrad.weighting.template import AveragingAggregation

EPSILON = 1e-8

_linalg: Any = torch.linalg  # compiled, without type annotations


class DBMTL(AveragingAggregation):
    """Averaged gradients of the losses' logarithms at equal norms.

    Its state is K gradients. Costs one Jacobian.

    Args:
        beta: weight of the old average at the first call, in [0, 1); 0 averages nothing.
        beta_decay: the exponent σ of the number of calls that divides beta, at least 0.

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "db_mtl"

    beta = Number(at_least=0, below=1)
    beta_decay = Number(at_least=0)
    needs_positive_losses = True

    def __init__(self, beta: float = 0.9, beta_decay: float = 0.5) -> None:
        super().__init__()
        self.beta = beta
        self.beta_decay = beta_decay

    @torch.no_grad()
    def forward(self, jacobian: Mapping[str, Tensor], losses: Tensor | None = None) -> Aggregate:
        """Compute the direction for a Jacobian and update the averages.

        Args:
            jacobian: the gradients of the losses themselves, name -> `[..., K, *shape]`, names and
                shapes as in the template.
            losses: `[..., K]`, not negative.

        Returns:
            name -> `[..., *shape]` in the template's dtype, with the diagnostics

            * `weights` `[..., K]`, the factors of the averages ĝ_i, 0 where one is zero;
            * `norms` `[..., K]`, the averages' norms.

            NaN for an element of the leading axes with a non-finite entry or a negative loss; its
            state does not change.

        Raises:
            ValueError: not initialised, a Jacobian unlike the template, or no losses.
        """
        rows = self._ordered(jacobian)
        if losses is None:
            raise ValueError(
                f"{self.name} divides gradients by their losses: pass losses=…, of shape [..., K]."
            )
        self._check_shape(losses.shape)
        beta = self.beta / (self.calls + 1)[..., None] ** self.beta_decay
        allowed = nonnegative_or_nan(losses)
        divisors = torch.where(allowed.isfinite(), allowed, torch.nan) + EPSILON
        averages = self._blend(rows, beta, (1 - beta) / divisors)
        norms = self._norms(averages)
        valid = norms.isfinite().all(-1, keepdim=True)
        self._accept(averages, valid[..., 0])
        weights = torch.where(norms > 0, norms.amax(-1, keepdim=True) / norms, 0.0)
        weights = torch.where(valid, weights, torch.nan)
        dtype = torch.promote_types(next(iter(averages.values())).dtype, torch.float32)
        diagnostics = {
            "weights": weights.to(dtype),
            "norms": torch.where(valid, norms, torch.nan).to(dtype),
        }
        return Aggregate(contract(weights, averages), diagnostics)

    def _norms(self, jacobian: Mapping[str, Tensor]) -> Tensor:
        """Return the norms of the rows over all parameters, `[..., K]` float64."""
        axes = len(self.batch_shape) + 1
        parts: list[Tensor] = []
        for rows in whole_parts(jacobian).values():
            dtype = torch.promote_types(rows.dtype, torch.float32)
            parts.append(_linalg.vector_norm(flatten(rows, axes), dim=-1, dtype=dtype).double())
        return _linalg.vector_norm(torch.stack(parts), dim=0)

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        return f"beta={self.beta:g}, beta_decay={self.beta_decay:g}"
