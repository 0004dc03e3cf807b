"""CAGrad, conflict-averse gradient descent.

Liu, Liu, Jin, Stone and Liu, "Conflict-Averse Gradient Descent for Multi-task Learning", 2021,
arXiv 2110.14048.

Among the directions near the mean gradient `g_0`, the one along which the slowest task improves
most,

    max_d min_i g_iᵀd,   ‖d − g_0‖ ≤ c‖g_0‖,

whose solution is `d = g_0 + λ g_w` with `g_w = Σ w_i g_i`, `λ = c‖g_0‖ / ‖g_w‖` and w on the
simplex the minimiser of `g_wᵀg_0 + c‖g_0‖‖g_w‖`. c = 0 is the mean gradient, c → ∞ points where
MGDA does.

Solution: d is also the point nearest to `g_0` with `g_iᵀd ≥ ν` for all i, for the ν at which its
distance is `c‖g_0‖`. For given ν that is a quadratic programme in `y = λw ≥ 0`. The distance
increases with ν and is convex in it, so Newton's iteration from above converges monotonically
without a safeguard.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import GramianWeighting, Weights
from mtrl_fairgrad.weighting.options import Choice, Number
from mtrl_fairgrad.weighting.solvers.arrays import (
    Array,
    ignore_fp_warnings,
    matvec,
    namespace,
    on_host,
    to_tensor,
)
from mtrl_fairgrad.weighting.solvers.nonnegative import minimise
from mtrl_fairgrad.weighting.solvers.problem import Equilibrated, Problem, finalize, prepare_cosines

STEPS = 40
"""Maximum number of Newton steps; most problems need 3 or 4."""
STEPS_ON_DEVICE = 8
"""Number of Newton steps on a device, where convergence cannot be checked without synchronising."""
TARGET = 1e-12
"""Relative error of the distance at which iteration stops."""


class _Point(NamedTuple):
    """State of Newton's iteration."""

    level: Array
    """ν, `[...]`."""
    u: Array
    """`[..., K]`, `y_i ‖g_i‖` for that ν."""
    free: Array
    """`[..., K]` bool, where u is not 0."""
    distance: Array
    """`[...]`, `‖Σ y_i g_i‖`."""


class CAGrad(GramianWeighting):
    """Conflict-averse gradient descent, solved to convergence.

    Stateless; costs one Jacobian and a few K×K systems.

    Args:
        c: radius around the mean gradient, relative to its length; finite and at least 0. Below 1,
            minimising the mean loss is still what it converges to. 0.4 in the paper's supervised
            experiments, 0.9 on MT10.
        rescale: d is divided by `1 + c²` (`"squared"`, as the authors' code by default), by `1 + c`
            (`"linear"`) or not at all (`"none"`).

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "cagrad"

    c = Number(at_least=0)
    rescale = Choice("none", "linear", "squared")

    def __init__(self, c: float = 0.4, rescale: str = "squared") -> None:
        super().__init__()
        self.c = c
        self.rescale = rescale

    @ignore_fp_warnings
    @torch.no_grad()
    def forward(self, gramian: Tensor) -> Weights:
        """Compute weights.

        Args:
            gramian: `[..., K, K]`.

        Returns:
            Weights `[..., K]`, positive, with the diagnostics

            * `min_progress` `[...]`, the smallest `g_iᵀd`;
            * `radius_error` `[...]`, the relative error of the distance,
              `‖d − g_0‖ / (c‖g_0‖) − 1`; 0 up to rounding, negative if c > 1 at a Pareto stationary
              point, where d = 0 is optimal.

            Tasks without gradient count in the mean only. NaN for an element of the leading axes
            that is not finite.

        Raises:
            ValueError: a Gramian that is not `[..., K, K]`.
        """
        problem, scaled = prepare_cosines(gramian)
        xp = namespace(problem.gramian)
        norms = xp.exp(scaled.log_norms)
        scale = xp.exp(-2 * scaled.centre)
        mean = xp.sum(problem.gramian, -1) * (scale / gramian.shape[-1])  # g_iᵀg_0
        radius = self.c * xp.sqrt(xp.clip(xp.sum(mean, -1) / gramian.shape[-1], 0.0, None))
        y, error = _nearest(problem, scaled, norms, mean, radius)
        divisor = {"none": 1.0, "linear": 1 + self.c, "squared": 1 + self.c**2}[self.rescale]
        weights, smallest = finalize(problem, (1 / gramian.shape[-1] + y) / divisor, gramian)
        return Weights(
            weights, {"min_progress": smallest, "radius_error": to_tensor(error).to(gramian.device)}
        )

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        return f"c={self.c:g}, rescale={self.rescale}"


def _nearest(
    problem: Problem, scaled: Equilibrated, norms: Array, mean: Array, radius: Array
) -> tuple[Array, Array]:
    """Return `y` at the ν whose distance is the radius, and the relative error of that distance.

    Shapes: `y` `[..., K]`, radius and error `[...]`.
    """
    xp = namespace(norms)
    moving = radius > 0

    def at(level: Array, guess: Array = None) -> _Point:
        linear = xp.where(
            problem.active & moving[..., None], (level[..., None] - mean) / norms, -1.0
        )
        u, free = minimise(scaled.cosines, linear, guess)
        return _Point(level, u, free, xp.sqrt(xp.sum(u * matvec(scaled.cosines, u), -1)))

    # The smallest ν of a single constraint: with all constraints, the distance is at least the
    # radius there, up to the ridge.
    alone = xp.where(problem.active, mean + radius[..., None] * norms, xp.inf)
    lowest = xp.amin(alone, -1)
    point = at(xp.where(xp.isfinite(lowest), lowest, 0.0))
    some = xp.where(moving, radius, 1.0)
    for _ in range(STEPS if on_host(norms) else STEPS_ON_DEVICE):
        excess = xp.where(moving, point.distance - radius, 0.0)
        if on_host(norms) and not (abs(excess) > TARGET * some).any():
            break
        slope = xp.sum(point.u / norms, -1)
        point = at(
            point.level - excess * point.distance / xp.where(slope > 0, slope, 1.0), point.free
        )
    return point.u / norms, xp.where(moving, point.distance / some - 1, 0.0)
