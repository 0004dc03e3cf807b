"""The exact solver's iteration on a whole batch of problems at once, without branches: the form for
GPUs.

The algorithm and its notation are those of `lapack`. Here every problem takes the same fixed number
of iterations and every iteration tries the same steps, so that nothing depends on a value on the
host: no synchronisation, and the whole solve can be compiled or captured in a CUDA graph.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.solvers.arrays import matvec
from mtrl_fairgrad.weighting.solvers.lapack import (
    CANCELLATION,
    LOWEST,
    ROUNDING,
    SUFFICIENT,
    TO_THE_END,
    TRUST_RADIUS,
)

ITERATIONS = 40
"""Enough for all problems tested with α from 0.1 to 10; easy ones are solved after 5 and then stand
still.
"""

_linalg: Any = torch.linalg  # its functions have no type annotations


class _Point(NamedTuple):
    """As in `lapack`, with leading axes: vectors `[..., K]`, numbers `[...]`."""

    x: Tensor
    u: Tensor
    pull: Tensor
    target: Tensor
    value: Tensor
    noise: Tensor
    error: Tensor


def solve(
    cosines: Tensor, log_norms: Tensor, p: float, iterations: int = ITERATIONS
) -> tuple[Tensor, Tensor]:
    """Solve a batch of equations.

    Args:
        cosines: `[..., K, K]` float64, symmetric positive definite with ridged unit diagonal.
        log_norms: `[..., K]` float64, logarithms of the gradient norms, centred near zero.
        p: 1/α, positive.
        iterations: how many, for all.

    Returns:
        The log-weights `[..., K]` and the largest relative error `[...]` of the equation with these
        cosines.
    """
    point = _start(cosines, log_norms, p)
    x, error = point.x, point.error
    for _ in range(iterations):
        point = _next(cosines, log_norms, p, point)
        better = point.error < error
        x = torch.where(better[..., None], point.x, x)
        error = torch.where(better, point.error, error)
    return x, error


def _start(cosines: Tensor, log_norms: Tensor, p: float) -> _Point:
    x = -2 / (1 + p) * log_norms
    u = (x + log_norms).exp()
    along = ((1 - p) * x).exp().sum(-1) / (u * matvec(cosines, u)).sum(-1)
    return _at(cosines, log_norms, p, x + along.log()[..., None] / (1 + p))


def _at(cosines: Tensor, log_norms: Tensor, p: float, x: Tensor) -> _Point:
    x = x.clamp(min=LOWEST)
    u = (x + log_norms).exp()
    pull = u * matvec(cosines, u)
    exponent = (1 - p) * x
    target = exponent.exp()
    utility = x if p == 1 else exponent.expm1() / (1 - p)
    half = 0.5 * pull.sum(-1)
    terms = u * matvec(cosines.abs(), u)
    error = (pull - target).abs() / (target + CANCELLATION * terms)
    error = torch.where((x <= LOWEST) & (pull > target), 0.0, error)
    noise = ROUNDING * (terms.sum(-1) + utility.abs().sum(-1))
    return _Point(x, u, pull, target, half - utility.sum(-1), noise, error.amax(-1))


def _next(cosines: Tensor, log_norms: Tensor, p: float, point: _Point) -> _Point:
    """The full log-residual step if Φ falls enough, otherwise the best of all moves of all lengths,
    if any is good.
    """
    bold, change = _newton_steps(cosines, p, point)
    moves = torch.cat(
        [bold[None], *_moves(change), _shares(bold) * bold, torch.zeros_like(bold[None])]
    )
    tried = _at(cosines, log_norms, p, point.x + moves)
    predicted = SUFFICIENT * ((point.pull - point.target) * bold).sum(-1).clamp(max=0.0)
    falls = tried.value[0] <= point.value + predicted + point.noise
    # Standing still, the last candidate, is for problems at which every move raises Φ by more than
    # rounding.
    lowest, best = tried.value[:-1].nan_to_num(nan=torch.inf).min(0)
    best = torch.where(lowest <= point.value + point.noise, best, len(moves) - 1)
    chosen = torch.where(falls, 0, best)[None]
    return _Point(*(_pick(field, chosen) for field in tried))


def _newton_steps(cosines: Tensor, p: float, point: _Point) -> Tensor:
    """The steps `log_newton` and `newton` of `lapack`, stacked `[2, ..., K]`; 0 where rounding
    prevents one.
    """
    positive = point.pull > 0
    left = torch.where(positive, point.pull, point.target)
    gap = point.target - point.pull
    logarithmic = torch.where(positive, point.pull * (point.target / left).log(), gap)
    curvature, right = torch.stack([left, point.target]), torch.stack([logarithmic, gap])
    system = cosines + torch.diag_embed(p * curvature / point.u.square())
    factor: Tensor
    failed: Tensor
    factor, failed = _linalg.cholesky_ex(system)
    found = torch.cholesky_solve((right / point.u)[..., None], factor)[..., 0] / point.u
    usable = (failed == 0) & found.isfinite().all(-1)
    return torch.where(usable[..., None], found, 0.0)


def _moves(change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three kinds of move of `lapack`, each with all shares of the `change`: `[8, ..., K]`."""
    part = _shares(change) * change
    largest = change.abs().amax(-1, keepdim=True).clamp(min=TRUST_RADIUS)
    steepest = change.neg().amax(-1, keepdim=True).clamp(min=TO_THE_END)
    whole = part * (TRUST_RADIUS * largest.reciprocal())
    straight = (part * (TO_THE_END * steepest.reciprocal())).log1p()
    each = torch.where(part > 0, part.abs().log1p(), part.clamp(min=-TRUST_RADIUS))
    return whole, straight, each


def _shares(like: Tensor) -> Tensor:
    """The parts of a step that are tried, from 1 to 1e-4, made where they are needed: `[8, 1,
    ...]`.
    """
    shares = torch.logspace(0, -4, 8, dtype=like.dtype, device=like.device)
    return shares.reshape(-1, *[1] * like.ndim)


def _pick(field: Tensor, which: Tensor) -> Tensor:
    """Of candidates `[N, ...]` or `[N, ..., K]` those numbered by `which` `[1, ...]`."""
    index = which if field.ndim == which.ndim else which[..., None].expand(1, *field.shape[1:])
    return field.gather(0, index)[0]
