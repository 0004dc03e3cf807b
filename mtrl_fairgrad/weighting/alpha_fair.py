"""The α-fair loss transformation (Ban and Ji, 2024, arXiv 2402.15638, Eq. 5), for any method.

Instead of the losses `l_i ≥ 0` themselves, minimise

    f(l_i) = l_i^(1−α) / (1−α),    α < 1:

the Pareto front stays (Proposition 1), while the point on it that a method finds moves. α = 0
changes nothing. α → 1 tends to `log l_i`, for linear scalarisation the method `si`: tasks count by
relative progress. Negative α favours the tasks with large losses, α → −∞ the largest alone.

By the chain rule the transformed gradients are `l_i^(−α) g_i`: nothing is differentiated again.

For α > 0 the factor has a pole at a loss of 0, for which there is no official code. Below a loss of
10⁻⁸, f continues in a straight line, so that factors are at most `10^(8α)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from mtrl_fairgrad.utils.validation import check_number
from mtrl_fairgrad.weighting.base import (
    SMALLEST_DIVISOR,
    Aggregate,
    GramianWeighting,
    JacobianAggregation,
    LossWeighting,
    Method,
    Weights,
    check_method,
    nonnegative_or_nan,
)
from mtrl_fairgrad.weighting.half_batches import rows_of_halves
from mtrl_fairgrad.weighting.options import Number
from mtrl_fairgrad.weighting.products import align, each_part

KEY = "loss_alpha"
HINT = "(at 1 the transformation is the logarithm: use the method si)"


def transform(losses: Tensor, alpha: float) -> Tensor:
    """Compute `l^(1−α)/(1−α)` of losses `l ≥ 0` of any shape, differentiably.

    For a training loop see `alpha_fair`.

    Raises:
        ValueError: α is not a finite number below 1.
    """
    alpha = check_number(KEY, alpha, below=1, hint=HINT)
    if alpha <= 0:
        return losses.pow(1 - alpha) / (1 - alpha)
    line = (losses - SMALLEST_DIVISOR) * SMALLEST_DIVISOR**-alpha
    below = torch.where(losses < SMALLEST_DIVISOR, line, 0)
    return losses.clamp(min=SMALLEST_DIVISOR).pow(1 - alpha) / (1 - alpha) + below


def _inverse(transformed: float, alpha: float) -> float:
    """Return the loss of a transformed value, 0 for one that no loss reaches."""
    return (max(0.0, transformed) * (1 - alpha)) ** (1 / (1 - alpha))


def alpha_fair(method: Method, alpha: float) -> Method:
    """Wrap a method so that it works on α-fair losses.

    The wrapper is of the same kind and takes the same inputs: plain losses, Gramian or Jacobian. It
    returns weights or a direction for the plain gradients. Its diagnostics are those of the wrapped
    method, which sees `l_i^(−α) g_i`, and `loss_factors` `[..., K]`, the factors `l_i^(−α)`, which
    apply to own gradients, too.

    Args:
        method: of any kind; do not use it by itself any more.
        alpha: finite and below 1.

    Raises:
        ValueError: the α is not allowed.
        TypeError: `method` is not a gradient-combination method.
    """
    check_method(method)
    wrapper = next(wrapper for kind, wrapper in _WRAPPERS.items() if isinstance(method, kind))
    return wrapper(method, alpha)


class _AlphaFair(Method):
    """What the wrappers of the three kinds share: the wrapped method and the factors `l^(−α)`."""

    name = "alpha_fair"
    needs_positive_losses = True

    alpha = Number(below=1, key=KEY, hint=HINT)

    def __init__(self, method: Any, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.method = method
        self.looks_after_step = method.looks_after_step
        self.lowest_loss = self._lowest_loss(method)

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        self.method.init(tasks, batch_shape, template)
        self.lowest_loss = self._lowest_loss(self.method)  # its options may have changed
        return super().init(tasks, batch_shape, template)

    @property
    def splits_batch(self) -> bool:
        return self.method.splits_batch

    def _lowest_loss(self, method: Method) -> float | Sequence[float]:
        """Return the losses whose transformed values are the method's `lowest_loss`, or 0."""
        lowest = method.lowest_loss if method.needs_positive_losses else 0.0
        if isinstance(lowest, Sequence):
            return tuple(_inverse(each, self.alpha) for each in lowest)
        return _inverse(lowest, self.alpha)

    def reset(self) -> None:
        self.method.reset()

    def draw(self, generators: Sequence[torch.Generator]) -> Tensor | None:
        return self.method.draw(generators)

    def draw_by_default(self, device: torch.device) -> Tensor | None:
        return self.method.draw_by_default(device)

    def after_step(self, losses: Tensor) -> None:
        self.method.after_step(self._transformed(losses))

    def _transformed(self, losses: Tensor) -> Tensor:
        return transform(nonnegative_or_nan(losses), self.alpha).to(losses.dtype)

    def _factors(self, losses: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return `l^(−α)` in float64, and the transformed losses in the losses' dtype."""
        if losses is None:
            raise ValueError("the α-fair transformation needs the losses: pass losses=.")
        lowest = SMALLEST_DIVISOR if self.alpha > 0 else 0.0
        factors = nonnegative_or_nan(losses).clamp(min=lowest).pow(-self.alpha)
        return factors, self._transformed(losses)

    def _call(self, observed: Any, losses: Tensor, noise: Tensor | None) -> Any:
        """Call the wrapped method with transformed losses."""
        return self.method(observed, **self.method.accepted(losses=losses, noise=noise))

    @staticmethod
    def _plain(result: Weights, factors: Tensor) -> Weights:
        """Convert weights of the transformed gradients to weights of the plain ones."""
        weights = (result.weights * factors).to(result.weights.dtype)
        return Weights(weights, {**result.diagnostics, "loss_factors": factors})

    def extra_repr(self) -> str:
        return f"loss_alpha={self.alpha:g}"


class _LossWrapper(_AlphaFair, LossWeighting):
    def forward(self, losses: Tensor, noise: Tensor | None = None) -> Weights:
        factors, transformed = self._factors(losses)
        return self._plain(self._call(transformed, transformed, noise), factors)


class _GramianWrapper(_AlphaFair, GramianWeighting):
    def forward(
        self, gramian: Tensor, losses: Tensor | None = None, noise: Tensor | None = None
    ) -> Weights:
        factors, transformed = self._factors(losses)
        of_rows = rows_of_halves(factors) if self.splits_batch else factors
        observed = (gramian * of_rows[..., :, None] * of_rows[..., None, :]).to(gramian.dtype)
        return self._plain(self._call(observed, transformed, noise), factors)


class _JacobianWrapper(_AlphaFair, JacobianAggregation):
    def forward(
        self,
        jacobian: Mapping[str, Tensor],
        losses: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Aggregate:
        factors, transformed = self._factors(losses)
        observed = each_part(lambda rows: rows * align(factors.to(rows.dtype), rows), jacobian)
        result: Aggregate = self._call(observed, transformed, noise)
        diagnostics = {**result.diagnostics, "loss_factors": factors}
        if "weights" in diagnostics:
            weights = diagnostics["weights"]
            diagnostics["weights"] = (weights * factors).to(weights.dtype)
        return Aggregate(result.direction, diagnostics)


_WRAPPERS = {
    LossWeighting: _LossWrapper,
    GramianWeighting: _GramianWrapper,
    JacobianAggregation: _JacobianWrapper,
}
