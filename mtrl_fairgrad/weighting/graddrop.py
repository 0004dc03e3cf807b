"""GradDrop, gradient sign dropout.

Chen, Ngiam, Huang, Luong, Kretzschmar, Chai and Anguelov, "Just Pick a Sign: Optimizing Deep
Multitask Models with Gradient Sign Dropout", 2020, arXiv 2010.06808.

In every coordinate one of the two signs is dropped (the paper's Algorithm 1, applied to the
gradients of parameters):

    P = ½ (1 + Σ_i g_i / Σ_i |g_i|),   U uniform in [0, 1)
    d = Σ_i (ℓ + (1−ℓ) m_i) g_i,       m_i = [g_i > 0 and P > U] or [g_i < 0 and P ≤ U]

P is the positive entries' share of the absolute sum, so a sign is kept with the probability of its
share, and the expectation of d over U is the plain sum of the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import Aggregate
from mtrl_fairgrad.weighting.options import Number
from mtrl_fairgrad.weighting.products import Joined, flatten
from mtrl_fairgrad.weighting.template import TemplateAggregation


class GradDrop(TemplateAggregation):
    """Keep one sign per coordinate.

    Random, without state; costs one Jacobian and two passes over it.

    Args:
        leak: the part ℓ of every gradient that is kept whatever its sign, in [0, 1]; 1 is the plain
            sum.

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "graddrop"

    leak = Number(at_least=0, at_most=1)

    def __init__(self, leak: float = 0.0) -> None:
        super().__init__()
        self.leak = leak

    def draw(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw uniform numbers `[..., P]`, one for each coordinate of all parameters.

        Order and dtype are those of the template.

        Raises:
            ValueError: not initialised, or not one generator per leading element.
        """

        def uniform(generator: torch.Generator) -> Tensor:
            dtype = reduce(torch.promote_types, (rows.dtype for rows in self._entries.values()))
            return torch.rand(
                sum(self._sizes()), generator=generator, dtype=dtype, device=generator.device
            )

        return self._stack_draws(generators, uniform)

    def _sizes(self) -> list[int]:
        """Return the number of coordinates of each parameter."""
        return [rows.shape[len(self.batch_shape) + 1 :].numel() for rows in self._entries.values()]

    @torch.no_grad()
    def forward(self, jacobian: Mapping[str, Tensor], noise: Tensor | None = None) -> Aggregate:
        """Compute the direction for a Jacobian.

        Args:
            jacobian: name -> `[..., K, *shape]`, names and shapes as in the template.
            noise: the uniform numbers `[..., P]` that `draw` returned.

        Returns:
            name -> `[..., *shape]` in the Jacobian's dtype, with the diagnostic `kept` `[...]`, the
            share of the kept signs in the absolute sum of all entries: 1 where all tasks agree in
            sign. NaN for an element of the leading axes with a non-finite entry.

        Raises:
            ValueError: not initialised, a Jacobian unlike the template, or no noise of the right
                shape.
        """
        rows = self._ordered(jacobian)
        axes, sizes = len(self.batch_shape), self._sizes()
        uniform = self._require_noise(noise).to(next(iter(rows.values())).device)
        if tuple(uniform.shape) != (*self.batch_shape, sum(sizes)):
            raise ValueError(
                f"noise of shape {tuple(uniform.shape)} is not allowed: give "
                f"{(*self.batch_shape, sum(sizes))}, one uniform number per coordinate, as "
                "method.draw returns them."
            )
        parts: Mapping[str, Tensor] = rows
        pieces = torch.split(uniform, sizes, -1)
        if isinstance(rows, Joined):
            parts, pieces = {"": rows.columns}, (uniform,)
        combined: dict[str, Tensor] = {}
        kept_sums: list[Tensor] = []
        total: list[Tensor] = []
        for (name, part), piece in zip(parts.items(), pieces, strict=True):
            entries = flatten(part, axes + 1).to(torch.promote_types(part.dtype, torch.float32))
            up, down = entries.clamp(min=0).sum(-2), entries.clamp(max=0).sum(-2)
            absolutes = up - down
            # P > U without a division, which would be 0/0 where both signs' sums are 0.
            winner = torch.where(up > piece * absolutes, up, down)
            kept_sums.append(winner.abs().sum(-1, dtype=torch.float64))
            total.append(absolutes.sum(-1, dtype=torch.float64))
            combined[name] = winner.lerp(up + down, self.leak)
        absolute = torch.stack(total).sum(0)
        finite = absolute.isfinite()
        share = torch.where(absolute > 0, torch.stack(kept_sums).sum(0) / absolute, 1.0)
        direction: dict[str, Tensor] = {}
        for name, part in parts.items():
            masked = torch.where(finite[..., None], combined[name], torch.nan)
            direction[name] = masked.to(part.dtype).reshape(part.select(axes, 0).shape)
        if isinstance(rows, Joined):
            direction = rows.with_whole(direction[""])
        return Aggregate(direction, {"kept": torch.where(finite, share, torch.nan)})

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        return f"leak={self.leak:g}"
