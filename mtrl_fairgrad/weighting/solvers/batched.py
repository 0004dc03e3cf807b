"""The exact solver's iteration on a batch of problems at once, without branches, for GPUs.

Algorithm and notation are those of `safeguarded`. Every problem takes the same fixed number of
iterations and every iteration tries the same steps, so that nothing depends on a value on the host:
there is no synchronisation, and the solve can be compiled or captured in a CUDA graph.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.solvers.arrays import matvec
from mtrl_fairgrad.weighting.solvers.safeguarded import (
    CANCELLATION,
    LOWEST,
    MAX_RELATIVE_DECREASE,
    ROUNDING,
    SUFFICIENT,
    TRUST_RADIUS,
)

ITERATIONS = 40
"""Enough for all tested problems with α from 0.1 to 10; easy ones are solved after 5."""

_linalg: Any = torch.linalg  # its functions have no type annotations


class _Point(NamedTuple):
    """As in `safeguarded`, with leading axes: vectors `[..., K]`, numbers `[...]`."""

    x: Tensor
    u: Tensor
    lhs: Tensor
    rhs: Tensor
    value: Tensor
    noise: Tensor
    error: Tensor


def solve(cosines: Tensor, log_norms: Tensor, p: float, iterations: int = ITERATIONS) -> Tensor:
    """Solve a batch of equations with a fixed number of iterations.

    Args:
        cosines: `[..., K, K]` float64, symmetric positive definite with ridged unit diagonal.
        log_norms: `[..., K]` float64, logarithms of the gradient norms, centred near zero.
        p: 1/α, positive.
        iterations: number of iterations of every problem.

    Returns:
        The log-weights `[..., K]`.
    """
    point = _start(cosines, log_norms, p)
    x, error = point.x, point.error
    for _ in range(iterations):
        point = _next(cosines, log_norms, p, point)
        better = point.error < error
        x = torch.where(better[..., None], point.x, x)
        error = torch.where(better, point.error, error)
    return x


def _start(cosines: Tensor, log_norms: Tensor, p: float) -> _Point:
    x = -2 / (1 + p) * log_norms
    u = (x + log_norms).exp()
    along = ((1 - p) * x).exp().sum(-1) / (u * matvec(cosines, u)).sum(-1)
    return _at(cosines, log_norms, p, x + along.log()[..., None] / (1 + p))


def _at(cosines: Tensor, log_norms: Tensor, p: float, x: Tensor) -> _Point:
    x = x.clamp(min=LOWEST)
    u = (x + log_norms).exp()
    lhs = u * matvec(cosines, u)
    exponent = (1 - p) * x
    rhs = exponent.exp()
    utility = x if p == 1 else exponent.expm1() / (1 - p)
    half = 0.5 * lhs.sum(-1)
    terms = u * matvec(cosines.abs(), u)
    error = (lhs - rhs).abs() / (rhs + CANCELLATION * terms)
    error = torch.where((x <= LOWEST) & (lhs > rhs), 0.0, error)
    noise = ROUNDING * (terms.sum(-1) + utility.abs().sum(-1))
    return _Point(x, u, lhs, rhs, half - utility.sum(-1), noise, error.amax(-1))


def _next(cosines: Tensor, log_norms: Tensor, p: float, point: _Point) -> _Point:
    """Take the full logarithmic step where Φ falls enough, otherwise the best of all moves.

    Moves of all lengths are tried; where none lowers Φ, the point stays.
    """
    bold, change = _newton_steps(cosines, p, point)
    moves = torch.cat(
        [bold[None], *_moves(change), _fractions(bold) * bold, torch.zeros_like(bold[None])]
    )
    tried = _at(cosines, log_norms, p, point.x + moves)
    predicted = SUFFICIENT * ((point.lhs - point.rhs) * bold).sum(-1).clamp(max=0.0)
    falls = tried.value[0] <= point.value + predicted + point.noise
    # The last candidate is no move, for problems where every move raises Φ by more than rounding.
    lowest, best = tried.value[:-1].nan_to_num(nan=torch.inf).min(0)
    best = torch.where(lowest <= point.value + point.noise, best, len(moves) - 1)
    chosen = torch.where(falls, 0, best)[None]
    return _Point(*(_pick(field, chosen) for field in tried))


def _newton_steps(cosines: Tensor, p: float, point: _Point) -> Tensor:
    """Return the steps `log_newton` and `newton` of `safeguarded.Objective`, `[2, ..., K]`.

    A step is 0 where rounding prevents it.
    """
    positive = point.lhs > 0
    left = torch.where(positive, point.lhs, point.rhs)
    gap = point.rhs - point.lhs
    logarithmic = torch.where(positive, point.lhs * (point.rhs / left).log(), gap)
    curvature, right = torch.stack([left, point.rhs]), torch.stack([logarithmic, gap])
    system = cosines + torch.diag_embed(p * curvature / point.u.square())
    factor: Tensor
    failed: Tensor
    factor, failed = _linalg.cholesky_ex(system)
    step = torch.cholesky_solve((right / point.u)[..., None], factor)[..., 0] / point.u
    usable = (failed == 0) & step.isfinite().all(-1)
    return torch.where(usable[..., None], step, 0.0)


def _moves(change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three kinds of move of `safeguarded`, each `[8, ..., K]`.

    The first axis has all fractions of the `change`.
    """
    part = _fractions(change) * change
    largest = change.abs().amax(-1, keepdim=True).clamp(min=TRUST_RADIUS)
    steepest = change.neg().amax(-1, keepdim=True).clamp(min=MAX_RELATIVE_DECREASE)
    whole = part * (TRUST_RADIUS * largest.reciprocal())
    straight = (part * (MAX_RELATIVE_DECREASE * steepest.reciprocal())).log1p()
    each = torch.where(part > 0, part.abs().log1p(), part.clamp(min=-TRUST_RADIUS))
    return whole, straight, each


def _fractions(like: Tensor) -> Tensor:
    """Return the fractions of a step that are tried, from 1 to 1e-4, as `[8, 1, ...]`."""
    fractions = torch.logspace(0, -4, 8, dtype=like.dtype, device=like.device)
    return fractions.reshape(-1, *[1] * like.ndim)


def _pick(field: Tensor, which: Tensor) -> Tensor:
    """Select candidates from `[N, ...]` or `[N, ..., K]` by their indices `which` `[1, ...]`."""
    index = which if field.ndim == which.ndim else which[..., None].expand(1, *field.shape[1:])
    return field.gather(0, index)[0]
