"""Options for how published codes differ around the same method.

| preset | own parameters | direction | length |
|---|---|---|---|
| `plain` | each task's plain gradient | Σ w_i g_i | unlimited |
| `official_supervised` | weighted by loss weightings only | K · Σ w_i g_i | at most 1 |
| `libmtl` | weighted by every method that has weights | Σ w_i g_i | unlimited |
| `libmtl_nash_mtl` | weighted by every method that has weights | Σ w_i g_i | at most 1 |

`plain` is also what the FairGrad paper's reinforcement-learning code does. `official_supervised` is
its supervised code for FairGrad and CAGrad, and for PCGrad with `reduction="mean"` (GradDrop has no
K there, and for its other methods the clipping happens too early to have an effect);
`official.official_convention` has all of that code's methods. `libmtl` is LibMTL for FairGrad and
loss weightings (the heads of its other methods stay plain), and `libmtl_nash_mtl` for Nash-MTL, as
in the supervised code of Nash-MTL's authors. (Their reinforcement-learning code divides long
directions by the maximum norm of 1, which changes nothing: `plain`.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl_fairgrad.utils.validation import check_choice, check_number
from mtrl_fairgrad.weighting import LossWeighting, Method
from mtrl_fairgrad.weighting.products import Joined, align, each_part, whole_parts

OWN = ("plain", "weighted", "weighted_losses")
SCALES = ("none", "tasks", "tasks_and_own", "mean_and_own")


@dataclass(frozen=True)
class Convention:
    """How the result of a method becomes gradients.

    Raises:
        ValueError: an option that is not allowed.
    """

    own: str = "plain"
    """Gradient of own parameters (heads): `"plain"`, their task's gradient; `"weighted"`,
    multiplied by the task's weight; `"weighted_losses"`, weighted for loss weightings and plain
    otherwise. A task with weight 0 of a loss weighting gets no gradient at all; methods without
    weights (`GradDrop`) leave own gradients plain."""
    scale: str = "none"
    """`"tasks"` multiplies the direction of shared parameters by K, `"tasks_and_own"` also the
    gradients of own parameters; `"mean_and_own"` divides both by K, as for the mean of the weighted
    losses instead of their sum."""
    max_norm: float | None = None
    """Largest norm of the direction of shared parameters after scaling, for each element of the
    leading axes; None for no limit.
    """

    def __post_init__(self) -> None:
        check_choice("own", self.own, OWN)
        check_choice("scale", self.scale, SCALES)
        if self.max_norm is not None:
            check_number("max_norm", self.max_norm, above=0, hint="or None for no limit")

    def own_weights(self, method: Method, diagnostics: Mapping[str, Tensor]) -> Tensor | None:
        """Return the factors of the tasks' own gradients, `[..., K]`; None for no change.

        Args:
            method: the method that was called.
            diagnostics: what it returned: its `weights` `[..., K]`, if it has any, and under the
                α-fair loss transformation the `loss_factors` `[..., K]`, which are part of every
                task's gradient.
        """
        by_losses = isinstance(method, LossWeighting)
        weights, factors = diagnostics.get("weights"), diagnostics.get("loss_factors")
        if weights is not None and self.weighs_own(method, diagnostics):
            return weights
        if weights is None or not by_losses:
            return factors
        counts = (weights != 0).to(weights.dtype)
        return counts if factors is None else counts * factors.to(weights.dtype)

    def weighs_own(self, method: Method, diagnostics: Mapping[str, Tensor]) -> bool:
        """Whether own gradients are multiplied by the tasks' weights; arguments as above."""
        return "weights" in diagnostics and (
            self.own == "weighted"
            or (self.own == "weighted_losses" and isinstance(method, LossWeighting))
        )

    def own_factor(self, tasks: int) -> float:
        """Return the factor of all own gradients that `scale` asks for, given K."""
        return {"tasks_and_own": float(tasks), "mean_and_own": 1 / tasks}.get(self.scale, 1.0)

    def apply(
        self,
        direction: Mapping[str, Tensor],
        tasks: int,
        batch_dims: int,
        total: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Scale and then clip a direction of shared parameters.

        Args:
            direction: name -> `[*batch, *shape]`.
            tasks: K.
            batch_dims: number of leading axes.
            total: the sum of squares over parameters, name -> `[*batch]`, where parts of them are
                elsewhere.
        """
        factor = float(tasks) if self.scale == "tasks" else self.own_factor(tasks)
        if self.max_norm is None:
            scaled = direction if factor == 1 else each_part(lambda part: part * factor, direction)
            return scaled if isinstance(scaled, Joined) else dict(scaled)
        squares = {
            name: _square_norms(part, batch_dims) for name, part in whole_parts(direction).items()
        }
        square = torch.stack(list(squares.values())).sum(0) if total is None else total(squares)
        norm = factor * square.sqrt()
        factor = factor * (self.max_norm / norm).clamp(max=1)
        return each_part(lambda part: scale_rows(part, factor), direction)


def _square_norms(part: Tensor, batch_dims: int) -> Tensor:
    wide = part.to(torch.promote_types(part.dtype, torch.float32))
    return wide.reshape(*part.shape[:batch_dims], -1).square().sum(-1)


def scale_rows(rows: Tensor, factors: Tensor) -> Tensor:
    """Multiply `rows` `[*axes, ...]` by `factors` `[*axes]`, keeping the dtype of `rows`."""
    return (rows * align(factors, rows)).to(rows.dtype)


PLAIN = Convention()
CONVENTIONS = {
    "plain": PLAIN,
    "official_supervised": Convention(own="weighted_losses", scale="tasks", max_norm=1.0),
    "libmtl": Convention(own="weighted"),
    "libmtl_nash_mtl": Convention(own="weighted", max_norm=1.0),
}
"""The presets of the table above, by name."""
