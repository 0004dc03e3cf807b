"""The α-fair loss transformation (Ban and Ji, 2024, arXiv 2402.15638, Eq. 5), for any method.

Instead of the losses `l_i > 0` themselves, minimise

    f(l_i) = l_i^(1−α) / (1−α),    α < 1:

the Pareto front stays (Proposition 1), while the point on it that a method finds moves. α = 0
changes nothing. α → 1 tends to `log l_i`, for linear scalarisation the method `si`: tasks count by
relative progress. Negative α favours the tasks with large losses, α → −∞ the largest alone.

By the chain rule the transformed gradients are `l_i^(−α) g_i`: nothing is differentiated again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from mtrl_fairgrad.utils.validation import check_number
from mtrl_fairgrad.weighting.base import (
    Aggregate,
    GramianWeighting,
    JacobianAggregation,
    LossWeighting,
    Method,
    Weights,
)
from mtrl_fairgrad.weighting.products import align


def transform(losses: Tensor, alpha: float) -> Tensor:
    """`l^(1−α)/(1−α)` of positive losses, of any shape and differentiable; see `alpha_fair` for a
    training loop.

    Raises:
        ValueError: α that is not a finite number below 1.
    """
    alpha = _checked(alpha)
    return losses.pow(1 - alpha) / (1 - alpha)


def alpha_fair(method: Method, alpha: float) -> Method:
    """The same method working on α-fair losses.

    It takes the plain losses, Gramian or Jacobian of any method of its kind, answers weights or a
    direction for the plain gradients, and may be used wherever `method` may. Its diagnostics are
    those of the method it wraps, which sees `l_i^(−α) g_i`, and `loss_factors` `[..., K]`, the
    `l_i^(−α)`, by which own gradients are multiplied too.

    Args:
        method: any; it becomes part of the answer and must not be used by itself any more.
        alpha: finite and below 1.

    Raises:
        ValueError: another α.
        TypeError: something that is no method.
    """
    for kind, wrapper in (
        (LossWeighting, _Losses),
        (GramianWeighting, _Gramian),
        (JacobianAggregation, _Jacobian),
    ):
        if isinstance(method, kind):
            return wrapper(method, alpha)
    raise TypeError(
        f"{type(method).__name__} is no gradient-combination method: give one, such as "
        "FairGrad(alpha=2)."
    )


def _checked(alpha: float) -> float:
    hint = "(at 1 the transformation is the logarithm: use the method si)"
    return check_number("loss_alpha", alpha, below=1, hint=hint)


class _Fair(Method):
    """What the three wrappers share: the method within, told transformed losses, and the factors
    `l^(−α)`.
    """

    name = "alpha_fair"
    needs_positive_losses = True

    def __init__(self, method: Any, alpha: float) -> None:
        super().__init__()
        self.alpha = _checked(alpha)
        self.method = method
        self.looks_after_step = method.looks_after_step

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        self.method.init(tasks, batch_shape, template)
        return super().init(tasks, batch_shape, template)

    def reset(self) -> None:
        self.method.reset()

    def draw(self, generators: Sequence[torch.Generator]) -> Tensor | None:
        return self.method.draw(generators)

    def after_step(self, losses: Tensor) -> None:
        self.method.after_step(self._transformed(losses))

    def _transformed(self, losses: Tensor) -> Tensor:
        return transform(self._positive(losses), self.alpha).to(losses.dtype)

    def _factors(self, losses: Tensor | None) -> tuple[Tensor, Tensor]:
        """`l^(−α)`, float64, and the transformed losses in the losses' dtype."""
        if losses is None:
            raise ValueError("the α-fair transformation needs the losses: pass losses=.")
        return self._positive(losses).pow(-self.alpha), self._transformed(losses)

    @staticmethod
    def _plain(found: Weights, factors: Tensor) -> Weights:
        """Weights for the plain gradients."""
        weights = (found.weights * factors).to(found.weights.dtype)
        return Weights(weights, {**found.diagnostics, "loss_factors": factors})

    def extra_repr(self) -> str:
        return f"loss_alpha={self.alpha:g}"


class _Losses(_Fair, LossWeighting):
    def forward(self, losses: Tensor, noise: Tensor | None = None) -> Weights:
        factors, transformed = self._factors(losses)
        return self._plain(self.method(transformed, noise=noise), factors)


class _Gramian(_Fair, GramianWeighting):
    def forward(
        self, gramian: Tensor, losses: Tensor | None = None, noise: Tensor | None = None
    ) -> Weights:
        factors, transformed = self._factors(losses)
        seen = (gramian * factors[..., :, None] * factors[..., None, :]).to(gramian.dtype)
        return self._plain(self.method(seen, losses=transformed, noise=noise), factors)


class _Jacobian(_Fair, JacobianAggregation):
    def forward(
        self,
        jacobian: Mapping[str, Tensor],
        losses: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Aggregate:
        factors, transformed = self._factors(losses)
        seen = {name: rows * align(factors.to(rows.dtype), rows) for name, rows in jacobian.items()}
        found: Aggregate = self.method(seen, losses=transformed, noise=noise)
        diagnostics = {**found.diagnostics, "loss_factors": factors}
        if "weights" in diagnostics:
            diagnostics["weights"] = (diagnostics["weights"] * factors).to(
                diagnostics["weights"].dtype
            )
        return Aggregate(found.direction, diagnostics)
