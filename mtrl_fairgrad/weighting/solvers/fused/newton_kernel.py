"""The exact solver as one Triton kernel: one program solves one problem, in float64.

The iteration is that of `safeguarded`, from its start and with its safeguards; masks, the ridge and
the correction of vanishing weights are those of `problem` and `newton`. Under
`TRITON_INTERPRET=1`, set before Triton is imported, it runs on CPU tensors.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from mtrl_fairgrad.weighting.solvers import problem, safeguarded
from mtrl_fairgrad.weighting.solvers.fused import elimination
from mtrl_fairgrad.weighting.solvers.fused.device_functions import (
    all_finite,
    constant,
    load_gramian,
    matvec,
    prepare,
    store_solution,
)
from mtrl_fairgrad.weighting.solvers.fused.launching import as_problems, block_of, options_of
from mtrl_fairgrad.weighting.solvers.newton import NEGLIGIBLE as _NEGLIGIBLE
from mtrl_fairgrad.weighting.solvers.newton import UNSAFEGUARDED_STEPS as _UNSAFEGUARDED_STEPS

LOWEST = tl.constexpr(safeguarded.LOWEST)
ROUNDING = tl.constexpr(safeguarded.ROUNDING)
CANCELLATION = tl.constexpr(safeguarded.CANCELLATION)
TRUST_RADIUS = tl.constexpr(safeguarded.TRUST_RADIUS)
MAX_RELATIVE_DECREASE = tl.constexpr(safeguarded.MAX_RELATIVE_DECREASE)
SUFFICIENT = tl.constexpr(safeguarded.SUFFICIENT)
TARGET = tl.constexpr(safeguarded.TARGET)
SETTLED = tl.constexpr(safeguarded.SETTLED)
PATIENCE = tl.constexpr(safeguarded.PATIENCE)
MAX_ITERATIONS = tl.constexpr(safeguarded.MAX_ITERATIONS)
UNSAFEGUARDED_STEPS = tl.constexpr(_UNSAFEGUARDED_STEPS)
HALVINGS = tl.constexpr(len(safeguarded.STEP_FRACTIONS))
NEGLIGIBLE = tl.constexpr(_NEGLIGIBLE)
NO_RIDGE_FACTOR = tl.constexpr(float(problem.NO_RIDGE_FACTOR))

_solve = elimination.solve


@triton.jit
def _log1p(x):
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def _expm1(x):
    u = tl.exp(x)
    plain = (u == 1.0) | (u - 1.0 == -1.0) | (u == float("inf"))
    between = (u - 1.0) * (x / tl.log(tl.where(plain, 2.0, u)))
    return tl.where(u == 1.0, x, tl.where(plain, u - 1.0, between))


@triton.jit
def _equilibrate(
    gramian,
    squares,
    active,
    scratch_ptr,
    SMALLEST: tl.constexpr,
    RIDGES: tl.constexpr,
    TASKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Separate a Gramian into norms and positive definite cosines, as `problem.equilibrate` does.

    Returns:
        Cosines, log-norms, their mean before they were centred, and whether the matrix is a
        Gramian; if not, cosines are the identity.
    """
    index = tl.arange(0, BLOCK)
    diagonal = index[:, None] == index[None, :]
    norms = tl.sqrt(tl.where(active, squares, 1.0))
    count = tl.sum(tl.where(active, 1.0, 0.0).to(tl.float64), 0)
    log_norms = tl.log(norms)
    centre = tl.sum(log_norms, 0) / tl.where(count > 0.0, count, 1.0)
    log_norms = tl.where(active, log_norms - centre, 0.0)
    cosines = gramian / norms[:, None] / norms[None, :]
    cosines = tl.where(diagonal, 1.0, 0.5 * (cosines + tl.trans(cosines)))
    # A ridge is accepted if half of it makes the matrix positive definite, no ridge if that stays
    # so without NO_RIDGE_FACTOR times the smallest.
    ridge = constant(0.0)
    following = constant(SMALLEST)
    shift = constant(-NO_RIDGE_FACTOR * SMALLEST)
    definite = tl.full((), 0, tl.int1)
    tried = tl.full((), 0, tl.int32)
    while (not definite) & (tried <= RIDGES):
        if tried > 0:
            ridge = following
            shift = 0.5 * following
            following = following * 10.0
        shifted = tl.where(diagonal, 1.0 + shift, cosines)
        _, definite = _solve(shifted, log_norms, scratch_ptr, TASKS, BLOCK)
        tried += 1
    ones = tl.where(diagonal, 1.0, 0.0)
    cosines = tl.where(definite, tl.where(diagonal, 1.0 + ridge, cosines), ones)
    return cosines, log_norms, centre, definite


@triton.jit
def _at(cosines, log_norms, x, p, active):
    """Evaluate the equation and Φ, as `safeguarded.Objective.at` does."""
    x = tl.maximum(x, LOWEST)
    u = tl.where(active, tl.exp(x + log_norms), 0.0)
    lhs = u * matvec(cosines, u)
    terms = u * matvec(tl.abs(cosines), u)
    exponent = (1.0 - p) * x
    rhs = tl.exp(exponent)
    divisor = tl.where(p == 1.0, constant(1.0), 1.0 - p)
    utility = tl.where(p == 1.0, x, _expm1(exponent) / divisor)
    error = tl.abs(lhs - rhs) / (rhs + constant(CANCELLATION) * terms)
    error = tl.where((x <= LOWEST) & (lhs > rhs), 0.0, error)
    # NaN would be lost in the maximum.
    error = tl.where(error < float("inf"), error, float("inf"))
    error = tl.max(tl.where(active, error, 0.0), 0)
    noise = constant(ROUNDING) * tl.sum(tl.where(active, terms + tl.abs(utility), 0.0), 0)
    value = tl.sum(tl.where(active, 0.5 * lhs - utility, 0.0), 0)
    return x, u, lhs, rhs, value, noise, error


@triton.jit
def _along_ray(cosines, log_norms, x, p, active):
    """Move all log-weights by the same amount, to the lowest Φ."""
    u = tl.where(active, tl.exp(x + log_norms), 0.0)
    right = tl.sum(tl.where(active, tl.exp((1.0 - p) * x), 0.0), 0)
    left = tl.sum(u * matvec(cosines, u), 0)
    some = left > 0.0
    ratio = tl.where(some, right, 1.0) / tl.where(some, left, 1.0)
    return tl.where(active, x + tl.log(ratio) / (1.0 + p), 0.0)


@triton.jit
def _newton_step(
    cosines, u, curvature, right, p, active, scratch_ptr, TASKS: tl.constexpr, BLOCK: tl.constexpr
):
    """Solve `(diag(u) C diag(u) + p·diag(curvature)) step = right`, or return zeros and False."""
    index = tl.arange(0, BLOCK)
    diagonal = index[:, None] == index[None, :]
    u = tl.where(active, u, 1.0)
    addend = tl.where(active, p * curvature / (u * u), 0.0)
    system = cosines + tl.where(diagonal, addend[None, :], 0.0)
    step, definite = _solve(system, tl.where(active, right / u, 0.0), scratch_ptr, TASKS, BLOCK)
    step = tl.where(active, step / u, 0.0)
    usable = definite & all_finite(step)
    return tl.where(usable, step, 0.0), usable


@triton.jit
def _move(change, bold, fraction, kind):
    """Return one of `safeguarded._moves`, in their order, or a fraction of the bold step."""
    part = fraction * change
    move = fraction * bold
    radius = constant(TRUST_RADIUS)
    decrease = constant(MAX_RELATIVE_DECREASE)
    if kind == 0:
        move = part * (radius / tl.maximum(tl.max(tl.abs(change), 0), radius))
    if kind == 1:
        move = _log1p(part * (decrease / tl.maximum(tl.max(-change, 0), decrease)))
    if kind == 2:
        move = tl.where(part > 0.0, _log1p(tl.abs(part)), tl.maximum(part, -radius))
    return move


@triton.jit
def _predicted(gradient, move):
    """Return the change of Φ that a move must reach."""
    return constant(SUFFICIENT) * tl.minimum(0.0, tl.sum(gradient * move, 0))


@triton.jit
def _shorter_step(
    cosines, log_norms, x, p, active, gradient, ceiling, change, change_usable, bold, bold_usable
):
    """Return the best of the moves of the largest fraction with which Φ falls enough, if any.

    Args:
        cosines: `[BLOCK, BLOCK]`.
        log_norms: `[BLOCK]`.
        x: `[BLOCK]`, where the moves start.
        p: 1/α.
        active: `[BLOCK]`.
        gradient: `[BLOCK]`, of Φ.
        ceiling: Φ at x with its rounding error.
        change: `[BLOCK]`, Newton's step for Φ.
        change_usable: whether it could be computed.
        bold: `[BLOCK]`, the logarithmic step.
        bold_usable: whether it could be computed.

    Returns:
        The log-weights `[BLOCK]`, and whether Φ falls.
    """
    following = x
    found = tl.full((), 0, tl.int1)
    fraction = constant(1.0)
    halved = tl.full((), 0, tl.int32)
    while (not found) & (halved < HALVINGS):
        lowest = constant(float("inf"))
        for kind in range(4):
            move = _move(change, bold, fraction, kind)
            usable = tl.where(kind == 3, bold_usable, change_usable)
            there, _, _, _, value, _, _ = _at(cosines, log_norms, x + move, p, active)
            falls = usable & (value <= ceiling + _predicted(gradient, move)) & (value < lowest)
            following = tl.where(falls, there, following)
            lowest = tl.where(falls, value, lowest)
            found = found | falls
        fraction = fraction * 0.5
        halved += 1
    return following, found


@triton.jit
def _vanishing_weights(cosines, log_norms, x, p, active):
    """Correct log-weights too small to matter, as `newton._vanishing_weights` does."""
    alpha = 1.0 / p
    lengths = tl.where(active, tl.exp(x + log_norms), 0.0)
    progress = matvec(cosines, lengths)
    largest = tl.min(tl.where(active, tl.abs(progress), float("inf")), 0) * constant(NEGLIGIBLE)
    positive = progress > 0.0
    below = -alpha * (tl.log(tl.where(positive, progress, 1.0)) + log_norms)
    vanishes = positive & (lengths < largest) & (tl.exp(below + log_norms) < largest)
    wrong = tl.abs(below - x) > alpha * constant(SETTLED)
    return tl.where(active & vanishes & wrong, below, x)


@triton.jit
def newton_kernel(
    gramian_ptr,
    active_ptr,
    start_ptr,
    scratch_ptr,
    weights_ptr,
    residual_ptr,
    converged_ptr,
    progress_ptr,
    active_out_ptr,
    iterations_ptr,
    p: "fp64",
    min_relative_norm: "fp64",
    HAS_ACTIVE: tl.constexpr,
    HAS_START: tl.constexpr,
    HAS_ITERATIONS: tl.constexpr,
    SMALLEST_RIDGE: tl.constexpr,
    RIDGES: tl.constexpr,
    TASKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    scratch_ptr += program * 6 * BLOCK
    gramian, squares, active, finite = prepare(
        gramian_ptr, active_ptr, min_relative_norm, HAS_ACTIVE, TASKS, BLOCK
    )
    cosines, log_norms, centre, definite = _equilibrate(
        gramian, squares, active, scratch_ptr, SMALLEST_RIDGE, RIDGES, TASKS, BLOCK
    )
    # Scaling all gradients by c scales w by c^(−2α/(1+α)), and α = 1/p.
    scale = 2.0 / (1.0 + p) * centre

    x = _along_ray(cosines, log_norms, -2.0 / (1.0 + p) * log_norms, p, active)
    x, u, lhs, rhs, value, noise, error = _at(cosines, log_norms, x, p, active)
    if HAS_START:
        index = tl.arange(0, BLOCK)
        given = tl.load(start_ptr + program * TASKS + index, mask=index < TASKS, other=1.0)
        given = tl.where(active, given.to(tl.float64), 1.0)
        usable = tl.min(tl.where((given > 0.0) & (given < float("inf")), 1, 0), 0) > 0
        given = tl.where(usable, given, 1.0)
        near = _along_ray(cosines, log_norms, tl.log(given) + scale, p, active)
        near, u1, lhs1, rhs1, value1, noise1, error1 = _at(cosines, log_norms, near, p, active)
        if usable & (value1 < value):
            x, u, lhs, rhs, value, noise, error = near, u1, lhs1, rhs1, value1, noise1, error1

    # First full logarithmic steps without safeguard, back to the start if they do not settle: the
    # equation has one solution, so whatever solves it is correct. Then full logarithmic steps where
    # Φ falls enough, and where it does not a shorter step in a careful pass, which needs Newton's
    # step for Φ.
    x0, u0, lhs0, rhs0, value0, noise0, error0 = x, u, lhs, rhs, value, noise, error
    best, best_error = x, error
    bold = x
    bold_usable = tl.full((), 0, tl.int1)
    careful = tl.full((), 0, tl.int1)
    free = tl.full((), 1, tl.int1)
    stalled = tl.full((), 0, tl.int32)
    iteration = tl.full((), 0, tl.int32)
    running = best_error > constant(TARGET)
    while running & (iteration < UNSAFEGUARDED_STEPS + MAX_ITERATIONS):
        positive = (lhs > 0.0) & (not careful)
        curvature = tl.where(positive, lhs, rhs)
        right = tl.where(positive, lhs * tl.log(rhs / curvature), rhs - lhs)
        step, usable = _newton_step(
            cosines, u, curvature, right, p, active, scratch_ptr, TASKS, BLOCK
        )
        bold = tl.where(careful, bold, step)
        bold_usable = tl.where(careful, bold_usable, usable)
        gradient = tl.where(active, lhs - rhs, 0.0)
        ceiling = value + noise
        x1 = x + bold
        found = bold_usable
        if careful:
            x1, found = _shorter_step(
                cosines, log_norms, x, p, active, gradient, ceiling, step, usable, bold, bold_usable
            )
        x1, u1, lhs1, rhs1, value1, noise1, error1 = _at(cosines, log_norms, x1, p, active)
        falls = value1 <= ceiling + _predicted(gradient, bold)
        unsettled = (iteration + 1 >= UNSAFEGUARDED_STEPS) & (error1 > constant(SETTLED))
        lost = free & ((not found) | (error1 == float("inf")) | unsettled)
        accepted = found & (not lost) & (free | careful | falls)
        free = free & (not lost) & (error > constant(SETTLED))
        running = accepted | lost | (not careful)
        careful = not (accepted | lost | careful)

        slow = accepted & (best_error <= constant(SETTLED)) & (not (error1 <= 0.5 * best_error))
        stalled = tl.where(careful, stalled, tl.where(slow, stalled + 1, 0))
        better = accepted & (error1 < best_error)
        best = tl.where(better, x1, best)
        best_error = tl.where(better, error1, best_error)
        x = tl.where(lost, x0, tl.where(accepted, x1, x))
        u = tl.where(lost, u0, tl.where(accepted, u1, u))
        lhs = tl.where(lost, lhs0, tl.where(accepted, lhs1, lhs))
        rhs = tl.where(lost, rhs0, tl.where(accepted, rhs1, rhs))
        value = tl.where(lost, value0, tl.where(accepted, value1, value))
        noise = tl.where(lost, noise0, tl.where(accepted, noise1, noise))
        error = tl.where(lost, error0, tl.where(accepted, error1, error))
        running = running & (best_error > constant(TARGET)) & (stalled < PATIENCE)
        iteration += tl.where(careful, 0, 1)

    x = _vanishing_weights(cosines, log_norms, best, p, active) - scale
    # Loaded again, so that it takes no registers during the iteration.
    gramian = load_gramian(gramian_ptr, TASKS, BLOCK)
    gramian = tl.where(finite & active[:, None] & active[None, :], gramian, 0.0)
    store_solution(
        gramian,
        active,
        finite & definite,
        tl.exp(x),
        tl.exp(p * x),
        weights_ptr,
        residual_ptr,
        converged_ptr,
        progress_ptr,
        active_out_ptr,
        TASKS,
        BLOCK,
    )
    if HAS_ITERATIONS:
        tl.store(iterations_ptr + program, iteration)


def launch(
    gramian: Tensor,
    alpha: float,
    active: Tensor | None,
    min_relative_norm: float,
    start: Tensor | None,
    results: tuple[Tensor, ...],
    iterations: Tensor | None = None,
) -> None:
    """Solve all problems of a Gramian, and write the fields of a `Solution` into `results`.

    Args:
        gramian: `[..., K, K]`.
        alpha: positive.
        active: `[..., K]` bool.
        min_relative_norm: as in `solvers.newton`.
        start: `[..., K]`.
        results: contiguous.
        iterations: `[...]` int32, to be filled with the numbers of iterations.
    """
    shape = gramian.shape
    tasks, count = shape[-1], math.prod(shape[:-2])
    if not count:
        return
    block = block_of(tasks)
    matrices = as_problems(gramian, shape, 2)
    mask, near = as_problems(active, shape[:-1], 1), as_problems(start, shape[:-1], 1)
    scratch = gramian.new_empty((count, elimination.scratch_size(block)), dtype=torch.float64)
    double = gramian.dtype == torch.float64
    smallest = problem.MIN_RIDGE_FLOAT64 if double else problem.MIN_RIDGE_FLOAT32
    weights = results[0]
    with torch.cuda.device_of(gramian):
        newton_kernel[(count,)](
            matrices,
            weights if mask is None else mask,
            weights if near is None else near,
            scratch,
            *results,
            weights if iterations is None else iterations,
            1 / alpha,
            min_relative_norm,
            HAS_ACTIVE=mask is not None,
            HAS_START=near is not None,
            HAS_ITERATIONS=iterations is not None,
            SMALLEST_RIDGE=smallest,
            RIDGES=len(problem.trial_ridges(smallest)) - 1,
            TASKS=tasks,
            BLOCK=block,
            **options_of(block),
        )
