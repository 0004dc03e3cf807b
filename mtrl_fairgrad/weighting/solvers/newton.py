"""The exact solver: preparation and choice of form. The iteration itself is in `lapack` and in
`batched`.

Gradients are equilibrated first: the iteration sees their cosines C and, apart, their norms. A
ridge on the diagonal of C makes the answer defined for every Gramian: none while all eigenvalues of
C exceed 1e-6 (for float32 Gramians 1e-5), otherwise 1e-8 (1e-7), more only where rounding made C
indefinite by over half of that.

Up to a condition number of C of 1e6 a float64 Gramian thus gets the exact direction, to within
1e-4°. A float32 Gramian's own rounding costs more, some 0.001° at 1e4 and 0.1° at 1e6.

Where the equation has no solution (Pareto stationarity: some gradients cancel), weights are finite,
large, and such that the direction vanishes as the ridge does, the slower the larger α; `converged`
is then True and `residual` large, which is how to recognise it.

Which form: on a CPU core, batched took 16–32 times as long as lapack for one problem, 5–17 times
for 8, and still 1.5–6 times for 2048 (K = 2 and 10).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.solvers import batched, lapack
from mtrl_fairgrad.weighting.solvers.arrays import ignore_fp_warnings, namespace, to_array
from mtrl_fairgrad.weighting.solvers.equation import Solution, make_solution
from mtrl_fairgrad.weighting.solvers.problem import check_gramian, equilibrate, prepare

Form = Literal["lapack", "batched"]


@ignore_fp_warnings
@torch.no_grad()
def newton(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None = None,
    form: Form | None = None,
    min_relative_norm: float = 0.0,
) -> Solution:
    """The exact solution, by a safeguarded Newton iteration on the logarithms of the weights.

    Args:
        gramian: `[..., K, K]`. A matrix that is no Gramian (needs a ridge above 0.1) is answered
            like a non-finite one.
        alpha: positive.
        active: `[..., K]` bool.
        form: `"lapack"` solves one problem after the other on the CPU; `"batched"` all at once
            where they are, without synchronising. By default lapack for tensors on the CPU, where
            it is faster at any size, and batched for tensors on other devices and inside
            `torch.compile`.
        min_relative_norm: tasks with at most this part of the largest gradient norm are left out.

    Returns:
        `converged`: the equation with the ridge is solved to a relative error of 1e-6, disregarding
            what
        float64 cannot resolve where the terms of `(Mw)_i` cancel.
    """
    check_gramian(gramian)
    values: Any = to_array(gramian) if form is None else gramian.detach().double()
    mask: Any = active
    if form == "lapack":
        values = values.cpu().numpy()
    if mask is not None and not isinstance(values, Tensor):
        mask = mask.cpu().numpy()
    xp = namespace(values)
    problem = prepare(values, mask, min_relative_norm)
    scaled = equilibrate(problem, gramian.dtype)
    solve = batched.solve if xp is torch else lapack.solve_batch
    log_weights, error = solve(scaled.cosines, scaled.log_norms, 1 / alpha)
    # Scaling all gradients by c scales w by c^(−2α/(1+α)): the common scale was out, so nothing
    # overflowed.
    weights = xp.exp(log_weights - 2 * alpha / (1 + alpha) * scaled.centre)
    return make_solution(
        problem._replace(valid=scaled.valid), weights, alpha, gramian, error <= lapack.SETTLED
    )
