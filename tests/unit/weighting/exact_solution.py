"""The α-fair equation solved to 25 digits in 250-digit arithmetic: what the solvers' accuracy is
measured against."""

from __future__ import annotations

import math

import numpy as np
import torch
from mpmath import mp, mpf
from torch import Tensor

DIGITS = 250


def exact_weights(gramian: Tensor, weights: Tensor | np.ndarray, alpha: float) -> np.ndarray:
    """Solution `[K]`, as mpf, of `Mw = w^(−1/α)` without any ridge, for `gramian` `[K, K]` taken as
    exact.

    Newton's iteration in w from the given starting weights, with float64 Newton systems and
    60-digit residuals, each step halved until w stays positive. The equation has one solution, so
    whatever has a tiny residual is the answer.

    Raises:
        ArithmeticError: no convergence from this start.
    """
    with mp.workdps(DIGITS):
        matrix = _exact(gramian)
        p = 1 / mpf(alpha)
        w = _exact(weights)
        for _ in range(100):
            power = np.array([value**-p for value in w], dtype=object)
            error = matrix @ w - power
            if max(abs(e / b) for e, b in zip(error, power, strict=True)) < mpf(10) ** -25:
                return w
            step = _newton_step(gramian, w, power, error, float(p))
            share = mpf(1)
            while min(w * (1 + share * step)) <= 0:
                share /= 2
            w = w * (1 + share * step)
    raise ArithmeticError(f"no convergence for alpha={alpha}, K={len(weights)}")


def _newton_step(
    gramian: Tensor, w: np.ndarray, power: np.ndarray, error: np.ndarray, p: float
) -> np.ndarray:
    """Relative change of w, from a system equilibrated so that float64 holds all its entries."""
    diagonal = [
        mpf(m) + p * b / x for m, b, x in zip(np.diag(gramian.numpy()), power, w, strict=True)
    ]
    scale = np.array([1 / mp.sqrt(d) for d in diagonal], dtype=object)
    system = np.array(_exact(gramian) * np.outer(scale, scale), dtype=np.float64)
    np.fill_diagonal(system, 1.0)
    largest = max(abs(error * scale))
    if largest == 0:
        return np.zeros_like(w)
    solved = np.linalg.solve(system, np.array(error * scale / largest, dtype=np.float64))
    return -_exact(torch.from_numpy(solved)) * largest * scale / w


def _exact(values: Tensor | np.ndarray) -> np.ndarray:
    array = values.double().numpy() if isinstance(values, Tensor) else values
    return np.vectorize(mpf, otypes=[object])(array)


def angle(jacobian: Tensor, weights: Tensor, reference: np.ndarray) -> float:
    """Degrees between the directions `Σ w_i g_i` of two sets of weights, for task gradients `[K,
    P]` in float64."""
    ours = weights.double() @ jacobian
    largest = max(reference)
    theirs = torch.tensor([float(w / largest) for w in reference], dtype=torch.float64) @ jacobian
    a, b = ours / ours.norm(), theirs / theirs.norm()
    return math.degrees(2 * math.atan2(float((a - b).norm()), float((a + b).norm())))
