"""Projection onto the probability simplex `{x : x_i ≥ 0, Σ x_i = 1}`."""

from __future__ import annotations

import torch
from torch import Tensor


def project(points: Tensor) -> Tensor:
    """Compute the nearest points of the simplex in Euclidean distance, exactly.

    The nearest point to p is `max(p − τ, 0)` with the one threshold τ that makes its sum 1. If k
    entries stay positive they are the k largest and τ is their excess over 1, shared equally; so k
    is the largest number for which the k-th largest entry exceeds the τ it implies (Held, Wolfe and
    Crowder, "Validation of subgradient optimization", 1974). Sorting costs `K log K` and reads no
    value on the host.

    Args:
        points: `[..., K]`, of any floating type and scale.

    Returns:
        `[..., K]` in the same dtype (float32 for half precision); NaN for an element of the leading
        axes with a non-finite entry.
    """
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    # Adding a constant to all entries adds it to τ; with the largest at 0, τ is in [−1, 0) and
    # loses no digits.
    shifted = points - points.amax(-1, keepdim=True)
    descending = shifted.sort(-1, descending=True).values
    count = torch.arange(1, points.shape[-1] + 1, dtype=points.dtype, device=points.device)
    thresholds = (_running_sums(descending) - 1) / count
    last = (descending > thresholds).sum(-1, keepdim=True) - 1
    nearest = (shifted - thresholds.gather(-1, last.clamp(min=0))).clamp(min=0)
    return torch.where(points.isfinite().all(-1, keepdim=True), nearest, torch.nan)


def _running_sums(values: Tensor) -> Tensor:
    """Sum the entries up to each one, of `[..., K]`.

    A GPU has no deterministic running sum of floating-point numbers, for which PyTorch raises an
    error under `use_deterministic_algorithms`.
    """
    return sums_of_beginnings(values) if values.is_cuda else values.cumsum(-1)


def sums_of_beginnings(values: Tensor) -> Tensor:
    """Compute the running sums of `[..., K]` as K sums, in an order that is always the same."""
    tasks = values.shape[-1]
    index = torch.arange(tasks, device=values.device)
    earlier = index <= index[:, None]
    return torch.where(earlier, values.unsqueeze(-2), 0.0).sum(-1)
