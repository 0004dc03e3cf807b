"""Projection of symmetric matrices that need not be Gramians, such as unbiased estimates of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtrl_fairgrad.weighting.host import on_host
from mtrl_fairgrad.weighting.solvers.arrays import Array, ignore_fp_warnings, to_array
from mtrl_fairgrad.weighting.solvers.equation import Solution
from mtrl_fairgrad.weighting.solvers.problem import check_gramian, prepare

_numpy: Any = np  # its functions have too many type annotations


@on_host
@ignore_fp_warnings
def solve_projected(
    solve: Callable[[Tensor], Solution], gramian: Tensor, min_relative_norm: float
) -> Solution:
    """Return `solve` of the `projected` symmetric matrices `[..., K, K]`."""
    check_gramian(gramian)
    return solve(torch.as_tensor(projected(to_array(gramian), min_relative_norm)).to(gramian.dtype))


def projected(matrices: Array, min_relative_norm: float = 0.0) -> Array:
    """Return the nearest positive semi-definite matrices to symmetric ones `[..., K, K]`.

    Nearest in the Frobenius norm of the cosine matrix, so that a factor on a task's gradients
    remains one. Tasks with a squared norm that is not positive, or not above
    `min_relative_norm` squared times the largest, have no gradient that can be told from noise:
    their rows and columns become 0. (The nearest matrix would give them a tiny gradient along the
    others or against them, and FairGrad then a huge weight.) Matrices that are not finite stay so.
    """
    problem = prepare(matrices, None, min_relative_norm)
    squares = np.diagonal(problem.gramian, 0, -2, -1)
    positive = squares > 0
    norms = np.sqrt(np.where(positive, squares, 1.0))
    scales = norms[..., :, None] * norms[..., None, :]
    kept = positive[..., :, None] & positive[..., None, :]
    cosines = np.where(kept, problem.gramian / scales, 0.0)
    values, vectors = _numpy.linalg.eigh(cosines)
    clipped = (vectors * np.clip(values, 0.0, None)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    definite = np.amin(values, -1)[..., None, None] >= 0
    moved = np.where(kept, (clipped + np.swapaxes(clipped, -1, -2)) / 2 * scales, 0.0)
    result = np.where(definite, problem.gramian, moved)
    return np.where(problem.valid[..., None, None], result, np.nan)
