"""The two-task toy problem of the paper's appendix A.1: losses, gradients, starts, Pareto front.

Two losses on the plane, parabolas below the axis `x2 = 0` and logarithmic valleys above it; the
second loss is ten times as large. The formula that the paper prints differs from that of the
program that drew its Figure 1, which has `+ tanh(−x2) + 2` in the second valley and
`0.1 (−x2 − 8)²` in both parabolas; `formula="code"` is that of the program. In the printed one, the
second coordinate is missing from the parabolas.
"""

from __future__ import annotations

import torch
from torch import Tensor

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
FORMULAS = ("code", "paper")


def losses(points: Tensor, formula: str = "code") -> Tensor:
    """Compute both losses `[..., 2]` at points `[..., 2]`; they may be negative."""
    x1, x2 = points.unbind(-1)
    bend = torch.tanh(-x2)

    def valley(distance: Tensor) -> Tensor:
        return distance.abs().clamp(min=5e-6).log() + 6

    upper, lower = torch.tanh(0.5 * x2).clamp(min=0), torch.tanh(-0.5 * x2).clamp(min=0)
    first = valley(0.5 * (-x1 - 7) - bend)
    second = valley(0.5 * (-x1 + 3) + (bend if formula == "code" else -bend) + 2)
    depth = 0.1 * (-(x2 if formula == "code" else x1) - 8).square()
    left, right = (((-x1 + centre).square() + depth) / 10 - 20 for centre in (7, -7))
    return torch.stack([0.1 * (first * upper + left * lower), second * upper + right * lower], -1)


def gradients(points: Tensor, formula: str = "code") -> Tensor:
    """Compute task gradients `[..., 2, 2]`: row i is that of loss i."""
    leaves = points.detach().requires_grad_()
    both = losses(leaves, formula)
    rows = [
        torch.autograd.grad(both[..., task].sum(), leaves, retain_graph=task == 0)[0]
        for task in range(2)
    ]
    return torch.stack(rows, -2)


def pareto_set(number: int) -> Tensor:
    """Return points `[number, 2]` of the Pareto set of `formula="code"`, by ascending x1.

    The set is the curve `|x1| ≤ 7`, with x2 from −8.355 in the middle to −8.434 at both ends.
    """
    x1 = torch.linspace(-7, 7, number, dtype=torch.float64)
    return torch.stack([x1, _x2_of_the_set(x1)], -1)


def distance_from_front(points: Tensor) -> Tensor:
    """Compute the distance `[...]` of points `[..., 2]` from the Pareto set of `formula="code"`."""
    x1, x2 = points.unbind(-1)
    return torch.maximum((x2 - _x2_of_the_set(x1)).abs(), (x1.abs() - 7).clamp(min=0))


def _x2_of_the_set(x1: Tensor) -> Tensor:
    return -8.355 - 0.079 * (x1 / 7).square()
