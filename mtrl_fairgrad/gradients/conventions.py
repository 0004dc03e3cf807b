"""What published codes do differently around the same method, as options.

| preset | own parameters | direction | length |
|---|---|---|---|
| `plain` | each task's plain gradient | Σ w_i g_i | as it is |
| `official_supervised` | weighted by loss weightings only | K · Σ w_i g_i | at most 1 |
| `libmtl` | weighted by every method that has weights | Σ w_i g_i | as it is |

`plain` is also what the FairGrad paper's reinforcement-learning code does. `official_supervised` is
its supervised code for FairGrad and CAGrad, and for PCGrad with `reduction="mean"` (GradDrop has no
K there, and for its other methods the clipping runs too early to have an effect). `libmtl` is
LibMTL for FairGrad, Nash-MTL and loss weightings (it leaves the heads of its other methods plain).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtrl_fairgrad.utils.validation import check_choice, check_number
from mtrl_fairgrad.weighting import LossWeighting, Method
from mtrl_fairgrad.weighting.products import align

OWN = ("plain", "weighted", "weighted_losses")
SCALES = ("none", "tasks")


@dataclass(frozen=True)
class Convention:
    """How the answer of a method becomes gradients.

    Raises:
        ValueError: a value that is not allowed.
    """

    own: str = "plain"
    """What own parameters (heads) receive: `"plain"`, their task's gradient; `"weighted"`, times
    its weight; `"weighted_losses"`, weighted by loss weightings and plain otherwise. A task that a
    loss weighting gives weight 0 is left out altogether; methods without weights (`GradDrop`) leave
    own gradients plain."""
    scale: str = "none"
    """`"tasks"` multiplies the direction of shared parameters by K."""
    max_norm: float | None = None
    """Longest direction of shared parameters, after scaling, for each element of the leading axes;
    `None`: any.
    """

    def __post_init__(self) -> None:
        check_choice("own", self.own, OWN)
        check_choice("scale", self.scale, SCALES)
        if self.max_norm is not None:
            check_number("max_norm", self.max_norm, above=0, hint="or None for no limit")

    def own_weights(self, method: Method, diagnostics: Mapping[str, Tensor]) -> Tensor | None:
        """What multiplies the tasks' own gradients, `[..., K]`; None leaves them as they are.

        Args:
            method: the one that answered.
            diagnostics: what it reported: its `weights` `[..., K]`, if it has any, and under the
                α-fair loss transformation the `loss_factors` `[..., K]`, which are part of every
                task's gradient.
        """
        by_losses = isinstance(method, LossWeighting)
        weights, factors = diagnostics.get("weights"), diagnostics.get("loss_factors")
        if weights is not None and (
            self.own == "weighted" or (by_losses and self.own == "weighted_losses")
        ):
            return weights
        if weights is None or not by_losses:
            return factors
        counts = (weights != 0).to(weights.dtype)
        return counts if factors is None else counts * factors.to(weights.dtype)

    def apply(
        self, direction: Mapping[str, Tensor], tasks: int, batch_dims: int
    ) -> dict[str, Tensor]:
        """The direction of shared parameters, name -> `[*batch, *shape]`, scaled and then shortened
        as agreed.
        """
        factor = float(tasks) if self.scale == "tasks" else 1.0
        if self.max_norm is None:
            return (
                {name: part * factor for name, part in direction.items()}
                if factor != 1
                else dict(direction)
            )
        wide = (
            part.to(torch.promote_types(part.dtype, torch.float32)) for part in direction.values()
        )
        squares = [part.reshape(*part.shape[:batch_dims], -1).square().sum(-1) for part in wide]
        norm = factor * torch.stack(squares).sum(0).sqrt()
        factor = factor * (self.max_norm / norm).clamp(max=1)
        return {name: scale_rows(part, factor) for name, part in direction.items()}


def scale_rows(rows: Tensor, factors: Tensor) -> Tensor:
    """`rows` `[*axes, ...]` times `factors` `[*axes]`, in the dtype of `rows`."""
    return (rows * align(factors, rows)).to(rows.dtype)


PLAIN = Convention()
CONVENTIONS = {
    "plain": PLAIN,
    "official_supervised": Convention(own="weighted_losses", scale="tasks", max_norm=1.0),
    "libmtl": Convention(own="weighted"),
}
"""The presets of the table above, by name."""
