"""Gramians of every difficulty, stratified: what a test of a solver draws from.

All take a generator and return task gradients `[K, P]` in float64, from which a test forms `J @
J.T`, so that an angle between directions can be measured in the space of gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

Sampler = Callable[[int, Generator], Tensor]


def ordinary(tasks: int, generator: Generator) -> Tensor:
    """Independent Gaussian gradients, in twice as many dimensions as tasks."""
    return torch.randn(tasks, 2 * tasks, generator=generator, dtype=torch.float64)


def heterogeneous(tasks: int, generator: Generator, decades: float = 5.0) -> Tensor:
    """Ordinary gradients whose norms span `decades` decades."""
    exponents = decades * (torch.rand(tasks, 1, generator=generator, dtype=torch.float64) - 0.5)
    return ordinary(tasks, generator) * 10.0**exponents


def aligned(tasks: int, generator: Generator) -> Tensor:
    """Gradients that share a strong common component, as early in training."""
    common = torch.randn(1, 2 * tasks, generator=generator, dtype=torch.float64)
    return ordinary(tasks, generator) + 3.0 * common


def conflicting(tasks: int, generator: Generator, remainder: float = 0.05) -> Tensor:
    """Gradients that almost cancel: all cosines are negative, a convex combination has a norm of
    `remainder`."""
    rows = ordinary(tasks, generator)
    rows = rows - rows.mean(0, keepdim=True)
    common = torch.randn(1, 2 * tasks, generator=generator, dtype=torch.float64)
    return rows + remainder * common


def conditioned(tasks: int, generator: Generator, condition: float = 5e5) -> Tensor:
    """Gradients whose Gramian has eigenvalues spread logarithmically over `condition`."""
    left, _ = torch.linalg.qr(torch.randn(tasks, tasks, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(
        torch.randn(2 * tasks, tasks, generator=generator, dtype=torch.float64)
    )
    singular = torch.logspace(0, -0.5 * math.log10(condition), tasks, dtype=torch.float64)
    return left * singular @ right.mT


def conflicting_heterogeneous(tasks: int, generator: Generator) -> Tensor:
    """Conflicting gradients whose norms span ten decades."""
    exponents = 10 * (torch.rand(tasks, 1, generator=generator, dtype=torch.float64) - 0.5)
    return conflicting(tasks, generator) * 10.0**exponents


def cosine_condition(jacobian: Tensor) -> float:
    """Condition number of the cosine matrix of the rows."""
    unit = jacobian / jacobian.norm(dim=1, keepdim=True)
    return float(torch.linalg.cond(unit) ** 2)


SAMPLERS: dict[str, Sampler] = {
    "ordinary": ordinary,
    "heterogeneous": heterogeneous,
    "aligned": aligned,
    "conflicting": conflicting,
    "conflicting_heterogeneous": conflicting_heterogeneous,
    "conditioned": conditioned,
}


# ---- where some combination of the gradients vanishes, or nearly all of them do ----


def low_rank(tasks: int, generator: Generator) -> Tensor:
    """Gradients in a space of half as many dimensions as tasks."""
    basis = torch.randn(max(1, tasks // 2), 2 * tasks, generator=generator, dtype=torch.float64)
    return torch.randn(tasks, len(basis), generator=generator, dtype=torch.float64) @ basis


def strongly_stationary(tasks: int, generator: Generator) -> Tensor:
    """A combination with positive weights of all gradients is 0: nothing improves all tasks, or any
    without harm.
    """
    rows = ordinary(tasks, generator)
    shares = torch.rand(tasks, 1, generator=generator, dtype=torch.float64) + 0.1
    rows[-1:] = -(shares[:-1] * rows[:-1]).sum(0, keepdim=True) / shares[-1:]
    return rows


def weakly_stationary(tasks: int, generator: Generator) -> Tensor:
    """A combination of some gradients is 0: half of the tasks cannot improve, the others can."""
    rows = ordinary(tasks, generator)
    half = (tasks + 1) // 2
    rows[:half] = strongly_stationary(half, generator).repeat(1, 4)[:, : 2 * tasks]
    return rows


def one_zero(tasks: int, generator: Generator) -> Tensor:
    """One task without gradient among ordinary ones."""
    rows = ordinary(tasks, generator)
    rows[tasks // 2] = 0
    return rows


STRATA: dict[str, Sampler] = {
    "ordinary": ordinary,
    "heterogeneous": heterogeneous,
    "aligned": aligned,
    "conflicting": conflicting,
    "low_rank": low_rank,
    "strongly_stationary": strongly_stationary,
    "weakly_stationary": weakly_stationary,
    "one_zero": one_zero,
}
"""What every method must come through."""
