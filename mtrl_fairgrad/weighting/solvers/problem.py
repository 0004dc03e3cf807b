"""Preparation of Gramians for all solvers: masking of inactive tasks, and equilibration."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import linalg  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from mtrl_fairgrad.weighting.solvers.arrays import Array, matvec, to_array

MIN_RIDGE_FLOAT32 = 1e-7
"""Smallest ridge on the cosine matrix's diagonal for float32 Gramians: the size of their rounding
errors.
"""
MIN_RIDGE_FLOAT64 = 1e-8
"""Smallest ridge for float64 Gramians: it does not change the direction visibly, and singular
systems can be solved to an error of 1e-6.
"""
NO_RIDGE_FACTOR = 100
"""No ridge is added if all eigenvalues exceed this multiple of the smallest ridge, as with a
condition number up to 1e6 in float64."""
MAX_RIDGE = 0.1
"""A matrix that needs a larger ridge, tried in powers of ten, is not a Gramian."""

_lapack: Any = linalg.lapack  # compiled, without type annotations


class Problem(NamedTuple):
    """A batch of Gramians with inactive tasks masked."""

    gramian: Array
    """`[..., K, K]`; inactive tasks' rows and columns are 0, non-finite elements the identity."""
    active: Array
    """`[..., K]` bool; False where the gradient is zero."""
    valid: Array
    """`[...]` bool; False where the Gramian is not finite."""


class Equilibrated(NamedTuple):
    """A problem as norms and cosines, `M_ij = e^(2·centre) n_i n_j C_ij`."""

    cosines: Array
    """`[..., K, K]`, symmetric positive definite, ones and the ridge on the diagonal.

    The identity where invalid.
    """
    log_norms: Array
    """`[..., K]`, `log n_i`, centred at 0; 0 for inactive tasks."""
    centre: Array
    """`[..., 1]`, the mean logarithm of the active tasks' gradient norms."""
    valid: Array
    """`[...]` bool; False where the matrix is not finite or not a Gramian."""


def prepare_cosines(gramian: Tensor) -> tuple[Problem, Equilibrated]:
    """Check, mask and equilibrate Gramians; the problem is invalid where a matrix is not a Gramian.

    Raises:
        ValueError: another shape than `[..., K, K]`.
    """
    check_gramian(gramian)
    problem = prepare(to_array(gramian))
    scaled = equilibrate(problem, gramian.dtype)
    return problem._replace(valid=scaled.valid), scaled


def check_gramian(gramian: Tensor) -> None:
    """Check the shape `[..., K, K]`.

    Raises:
        ValueError: the shape is wrong.
    """
    if gramian.ndim < 2 or gramian.shape[-1] != gramian.shape[-2] or not gramian.shape[-1]:
        raise ValueError(
            f"gramian of shape {tuple(gramian.shape)} is not allowed: give [..., K, K], the inner "
            "products of K task gradients."
        )


def prepare(gramian: Array, active: Array | None = None, min_relative_norm: float = 0.0) -> Problem:
    """Mask inactive tasks of Gramians `[..., K, K]`.

    Args:
        gramian: of checked shape.
        active: `[..., K]` bool; by default all tasks that have a gradient.
        min_relative_norm: tasks with at most this part of the largest gradient norm are inactive,
            too.
    """
    valid = np.all(np.isfinite(gramian), (-2, -1))
    gramian = np.where(valid[..., None, None], gramian, np.eye(gramian.shape[-1]))
    squares = np.diagonal(gramian, 0, -2, -1)
    positive = squares > min_relative_norm**2 * np.amax(squares, -1)[..., None]
    considered: Array = positive if active is None else active & positive
    pairs = considered[..., :, None] & considered[..., None, :]
    return Problem(np.where(pairs, gramian, 0.0), considered, valid)


def equilibrate(problem: Problem, dtype: torch.dtype) -> Equilibrated:
    """Separate a problem into norms and cosines, and make the cosines positive definite.

    The ridge on the cosine matrix's diagonal is the smallest sufficient one: none while all
    eigenvalues exceed 1e-6 (1e-5 for float32 Gramians), otherwise 1e-8 (1e-7), more only where
    rounding made the matrix indefinite by over half of that, as Gramians summed in low precision
    can be.

    Args:
        problem: result of `prepare`.
        dtype: the original dtype of the Gramian, which determines the precision of its entries.
    """
    squares = np.where(problem.active, np.diagonal(problem.gramian, 0, -2, -1), 1.0)
    norms = np.sqrt(squares)
    log_norms = np.log(norms)
    count = np.sum(problem.active, -1)[..., None]
    centre = np.sum(log_norms, -1)[..., None] / np.where(count > 0, count, 1)
    log_norms = np.where(problem.active, log_norms - centre, 0.0)
    cosines = problem.gramian / norms[..., :, None] / norms[..., None, :]
    eye = np.eye(cosines.shape[-1])
    cosines = np.where(eye > 0, eye, (cosines + np.swapaxes(cosines, -1, -2)) / 2)
    smallest = MIN_RIDGE_FLOAT64 if dtype == torch.float64 else MIN_RIDGE_FLOAT32
    ridge, definite = _smallest_ridge(cosines, smallest)
    cosines = np.where(definite[..., None, None], cosines + ridge[..., None, None] * eye, eye)
    return Equilibrated(cosines, log_norms, centre, problem.valid & definite)


@functools.cache
def trial_ridges(smallest: float) -> list[tuple[float, float]]:
    """Return ridges in ascending order, each with the shift that it is tested with.

    A ridge is accepted if the shifted matrix is positive definite. Half of a ridge must suffice for
    a factorisation; the other half bounds the solution.
    """
    count = round(math.log10(MAX_RIDGE / smallest)) + 1
    return [
        (0.0, -NO_RIDGE_FACTOR * smallest),
        *((ridge, 0.5 * ridge) for ridge in (smallest * 10**i for i in range(count))),
    ]


def _smallest_ridge(cosines: Array, smallest: float) -> tuple[Array, Array]:
    """Return the smallest sufficient ridge `[...]`, and whether there is one."""
    tasks = cosines.shape[-1]
    diagonal = np.diag_indices(tasks)
    ridges = np.full(cosines.shape[:-2], np.nan)
    for index, matrix in zip(
        np.ndindex(ridges.shape), cosines.reshape(-1, tasks, tasks), strict=True
    ):
        for ridge, shift in trial_ridges(smallest):
            shifted = matrix.copy()
            shifted[diagonal] += shift
            if _lapack.dpotrf(shifted, lower=1, overwrite_a=1)[1] == 0:
                ridges[index] = ridge
                break
    return ridges, ~np.isnan(ridges)


def finalize(problem: Problem, weights: Array, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return final weights `[..., K]` and the smallest `g_iᵀd` `[...]`; NaN where invalid.

    Weights have the Gramian's `dtype` (float32 for half precision).
    """
    weights = np.where(problem.valid[..., None], weights, np.nan)
    smallest = np.amin(matvec(problem.gramian, weights), -1)
    rounded = torch.as_tensor(weights).to(torch.promote_types(dtype, torch.float32))
    return rounded, torch.as_tensor(smallest)
