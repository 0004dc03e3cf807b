"""The exact solver: preparation and choice of form. The iteration itself is in `lapack` and in `batched`.

Gradients are equilibrated first: the iteration sees their cosines C and, apart, their norms. A ridge on the
diagonal of C makes the answer defined for every Gramian: none while all eigenvalues of C exceed 1e-6 (for
float32 Gramians 1e-5), otherwise 1e-8 (1e-7), more only where rounding made C indefinite by over half of
that.

Up to a condition number of C of 1e6 a float64 Gramian thus gets the exact direction, to within 1e-4°. A
float32 Gramian's own rounding costs more, some 0.001° at 1e4 and 0.1° at 1e6.

Where the equation has no solution (Pareto stationarity: some gradients cancel), weights are finite, large,
and such that the direction vanishes as the ridge does, the slower the larger α; `converged` is then True
and `residual` large, which is how to recognise it.

Which form: on a CPU core, batched took 16–32 times as long as lapack for one problem, 5–17 times for 8, and
still 1.5–6 times for 2048 (K = 2 and 10).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.solvers import batched, lapack
from mtrl_fairgrad.weighting.solvers.equation import Prepared, Solution, finish, prepare

Form = Literal["lapack", "batched"]

SMALLEST_SINGLE = 1e-7
"""The ridge on the cosine matrix's diagonal for Gramians in float32: the size of their rounding."""
SMALLEST_DOUBLE = 1e-8
"""For Gramians in float64: no direction shows it, and singular systems can be solved to an error of 1e-6."""
PLENTY = 100
"""How many times the smallest ridge all eigenvalues must exceed to need none. In float64, a condition
number of 1e6 is enough for that."""
LARGEST = 0.1
"""A matrix that needs a larger ridge, tried in powers of ten, to become positive definite is no Gramian."""

_linalg: Any = torch.linalg  # its functions have no type annotations


@torch.no_grad()
def newton(gramian: Tensor, alpha: float, active: Tensor | None = None, form: Form | None = None) -> Solution:
    """The exact solution, by a safeguarded Newton iteration on the logarithms of the weights.

    Args:
        gramian: `[..., K, K]`. A matrix that is no Gramian (needs a ridge above 0.1) is answered like a
            non-finite one.
        alpha: positive.
        active: `[..., K]` bool.
        form: `"lapack"` solves one problem after the other on the CPU; `"batched"` all at once where they
            are, without synchronising. By default lapack for tensors on the CPU, where it is faster at any
            size, and batched for tensors on other devices and inside `torch.compile`.

    Returns:
        `converged`: the equation with the ridge is solved to a relative error of 1e-6, disregarding what
        float64 cannot resolve where the terms of `(Mw)_i` cancel.
    """
    problem = prepare(gramian, active)
    squares = torch.where(problem.active, problem.gramian.diagonal(dim1=-2, dim2=-1), 1.0)
    # Scaling all gradients by c scales w by c^(−2α/(1+α)): take the common scale out, so nothing overflows.
    log_norms = 0.5 * squares.log()
    centre = log_norms.sum(-1, keepdim=True) / problem.active.sum(-1, keepdim=True).clamp(min=1)
    log_norms = torch.where(problem.active, log_norms - centre, 0.0)
    cosines, definite = _ridged_cosines(problem, squares.sqrt(), gramian.dtype)
    problem = problem._replace(valid=problem.valid & definite)
    if form is None:
        on_host = gramian.device.type == "cpu" and not torch.compiler.is_compiling()
        form = "lapack" if on_host else "batched"
    solve = lapack.solve_batch if form == "lapack" else batched.solve
    log_weights, error = solve(cosines, log_norms, 1 / alpha)
    weights = (log_weights - 2 * alpha / (1 + alpha) * centre).exp()
    return finish(problem, weights, alpha, gramian.dtype, error <= lapack.SETTLED)


def _ridged_cosines(problem: Prepared, norms: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine matrices `[..., K, K]` with the least sufficient ridge, and whether there is one `[...]`.

    The identity where there is none. Gramians summed in low precision may be indefinite by more than
    float32's rounding.
    """
    smallest = SMALLEST_DOUBLE if dtype == torch.float64 else SMALLEST_SINGLE
    count = round(math.log10(LARGEST / smallest)) + 1
    # Made where they are needed: moving them to a GPU would synchronise.
    ridges = torch.logspace(-1, -count, count, dtype=norms.dtype, device=norms.device)
    # Half of a ridge must do for a factorisation; the other half bounds the solution.
    shifts = torch.cat([0.5 * ridges, -PLENTY * ridges[-1:]])
    ridges = torch.cat([ridges, torch.zeros_like(ridges[-1:])])
    cosines = problem.gramian / norms[..., :, None] / norms[..., None, :]
    cosines = (cosines + cosines.mT) / 2
    eye = torch.eye(norms.shape[-1], dtype=norms.dtype, device=norms.device)
    cosines = torch.where(eye > 0, eye, cosines)
    shifted = cosines[..., None, :, :] + shifts[:, None, None] * eye
    fits: Tensor = _linalg.cholesky_ex(shifted).info == 0
    definite = fits.any(-1)
    ridge = torch.where(fits, ridges, LARGEST).amin(-1)
    return torch.where(definite[..., None, None], cosines + ridge[..., None, None] * eye, eye), definite
