"""The paper's SGD solver in float32, operation by operation as its published code computes it.

Source: `mtrl_files/fairgrad.py` of github.com/OptMN-Lab/fairgrad, which differentiates the
objective by autograd. In float32 its gradient overflows once a weight is clamped at ε (w = ε means
`w^(−1−2/α)` of 1e24 and a squared norm beyond 3e38 for α ≤ 1), and clipping to an infinite norm
makes the step 0. In float64 it does not, so that the two precisions part.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-8
"""Added to the weights before their power is computed; also their lower bound."""

_linalg: Any = torch.linalg  # its functions have no type annotations


class Steps(NamedTuple):
    """Options of the solver, see `paper.sgd`."""

    steps: int
    learning_rate: float
    momentum: float
    max_norm: float


def solve(gramian: Tensor, p: float, options: Steps) -> Tensor:
    """Run the published loop for one problem: the same bits on the same machine.

    Args:
        gramian: `[K, K]` float32, of active tasks only.
        p: 1/α, positive.
        options: of the solver.

    Returns:
        Weights `[K]`; the equal start where no objective is finite.
    """
    tasks = len(gramian)
    weights = torch.ones(tasks, dtype=gramian.dtype) / tasks
    best, lowest = weights, math.inf
    velocity = torch.zeros_like(weights)
    transposed = gramian.t()
    for _ in range(options.steps):
        inverse, error = _error(weights, gramian.mv(weights), p)
        norm: Tensor = _linalg.vector_norm(error)
        objective = float(norm.square())
        if objective < lowest:
            best, lowest = weights, objective
        along = 2 * norm * (error / norm).masked_fill_(norm == 0, 0)
        gradient = _clip(transposed.mv(along) + _through_power(inverse, along, p), options)
        velocity = velocity * options.momentum + gradient
        weights = weights.add(velocity, alpha=-options.learning_rate).clamp_(min=EPSILON)
    return best


def _error(weights: Tensor, progress: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return `1/(w + ε)` and `Mw − (1/(w + ε))^p`."""
    inverse = (weights + EPSILON).reciprocal()
    return inverse, progress - inverse.pow(p)


def _through_power(inverse: Tensor, along: Tensor, p: float) -> Tensor:
    """Return the part of the objective's gradient that comes through the power of the weights."""
    return -along * (p * inverse.pow(p - 1)) * -(inverse * inverse)


def _clip(gradient: Tensor, options: Steps) -> Tensor:
    norm: Tensor = _linalg.vector_norm(gradient, dim=-1, keepdim=True)
    return gradient * (options.max_norm / (norm + 1e-6)).clamp(max=1.0)
