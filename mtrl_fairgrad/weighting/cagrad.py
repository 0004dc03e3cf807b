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

import numpy as np
import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import GramianWeighting, Weights
from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.options import Choice, Number
from mtrl_fairgrad.weighting.solvers.arrays import Array, ignore_fp_warnings, matvec
from mtrl_fairgrad.weighting.solvers.nonnegative import minimise
from mtrl_fairgrad.weighting.solvers.problem import Equilibrated, Problem, finalize, prepare_cosines

STEPS = 40
"""Maximum number of Newton steps; most problems need 3 or 4."""
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
        divisor = {"none": 1.0, "linear": 1 + self.c, "squared": 1 + self.c**2}[self.rescale]
        return _solve(gramian, self.c, divisor)

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        return f"c={self.c:g}, rescale={self.rescale}"


@on_host
@ignore_fp_warnings
def _solve(gramian: Tensor, c: float, divisor: float) -> Weights:
    problem, scaled = prepare_cosines(gramian)
    tasks = gramian.shape[-1]
    norms = np.exp(scaled.log_norms)
    scale = np.exp(-2 * scaled.centre)
    mean = np.sum(problem.gramian, -1) * (scale / tasks)  # g_iᵀg_0
    radius = c * np.sqrt(np.clip(np.sum(mean, -1) / tasks, 0.0, None))
    y, error = _nearest(problem, scaled, norms, mean, radius)
    weights, smallest = finalize(problem, (1 / tasks + y) / divisor, gramian.dtype)
    return Weights(weights, {"min_progress": smallest, "radius_error": torch.as_tensor(error)})


def _nearest(
    problem: Problem, scaled: Equilibrated, norms: Array, mean: Array, radius: Array
) -> tuple[Array, Array]:
    """Return `y` at the ν whose distance is the radius, and the relative error of that distance.

    Shapes: `y` `[..., K]`, radius and error `[...]`.
    """
    moving = radius > 0

    def at(level: Array, guess: Array | None = None) -> _Point:
        linear = np.where(
            problem.active & moving[..., None], (level[..., None] - mean) / norms, -1.0
        )
        u, free = minimise(scaled.cosines, linear, guess)
        return _Point(level, u, free, np.sqrt(np.sum(u * matvec(scaled.cosines, u), -1)))

    # The smallest ν of a single constraint: with all constraints, the distance is at least the
    # radius there, up to the ridge.
    alone = np.where(problem.active, mean + radius[..., None] * norms, np.inf)
    lowest = np.amin(alone, -1)
    point = at(np.where(np.isfinite(lowest), lowest, 0.0))
    some = np.where(moving, radius, 1.0)
    for _ in range(STEPS):
        excess = np.where(moving, point.distance - radius, 0.0)
        if not (abs(excess) > TARGET * some).any():
            break
        slope = np.sum(point.u / norms, -1)
        point = at(
            point.level - excess * point.distance / np.where(slope > 0, slope, 1.0), point.free
        )
    return point.u / norms, np.where(moving, point.distance / some - 1, 0.0)
