"""Weights after a method has found them: bounds of their ratios, and the direction's length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDING = 1e-12
"""Error of a sum of logarithms."""


def bound_ratios(weights: Tensor, ratio: float) -> Tensor:
    """Bound positive weights to within a factor of their geometric mean.

    Weights outside `[m/ratio, m·ratio]` move to its nearest end, with the m that then is the
    geometric mean. So one enormous weight leaves the others as they are. Weights of 0 stay and do
    not count.

    Args:
        weights: `[..., K]`, not negative.
        ratio: at least 1.

    Returns:
        `[..., K]` float64; NaN for an element of the leading axes with a NaN.
    """
    counted = weights > 0
    logs = torch.where(counted, weights, 1).double().log()
    half_width = math.log(ratio)

    def surplus(centres: Tensor) -> Tensor:
        """Return the sums of clipped distances from centres `[..., C]`, which fall with them."""
        distances = (logs.unsqueeze(-2) - centres.unsqueeze(-1)).clamp(-half_width, half_width)
        total = torch.where(counted.unsqueeze(-2), distances, 0).sum(-1)
        return torch.where(total.abs() < ROUNDING, 0, total)

    # The surplus is linear between the centres at which some weight reaches an end.
    corners = torch.cat([logs - half_width, logs + half_width], -1)
    usable = torch.cat([counted, counted], -1)
    heights = surplus(corners)
    left, right = usable & (heights >= 0), usable & (heights <= 0)
    low = torch.where(left, corners, -torch.inf).amax(-1)
    high = torch.where(right, corners, torch.inf).amin(-1)
    above = torch.where(left, heights, torch.inf).amin(-1)
    below = torch.where(right, heights, -torch.inf).amax(-1)
    flat = above == below  # both 0
    share = torch.where(flat, 0.5, above / torch.where(flat, 1, above - below))
    mean = (low + share * (high - low)).exp().unsqueeze(-1)
    bounded = weights.double().clamp(min=mean / ratio, max=mean * ratio)
    return torch.where(counted, bounded, weights.double())


def at_length_of_mean(weights: Tensor, gramian: Tensor) -> Tensor:
    """Scale weights so that the direction is as long as the mean of the gradients.

    A direction that vanishes within rounding gets weights of 0.

    Args:
        weights: `[..., K]`, not negative.
        gramian: `[..., K, K]`, of the gradients that are combined.

    Returns:
        `[..., K]` float64.
    """
    weights, wide = weights.double(), gramian.double()

    def square(matrix: Tensor) -> Tensor:
        """Return `wᵀ matrix w`."""
        return ((matrix @ weights.unsqueeze(-1))[..., 0] * weights).sum(-1, keepdim=True)

    length = square(wide)
    wanted = wide.mean((-2, -1)).clamp(min=0).unsqueeze(-1)
    rounding = torch.finfo(torch.promote_types(gramian.dtype, torch.float32)).eps
    vanishes = length <= rounding * square(wide.abs())
    return weights * torch.where(vanishes, 0, (wanted / length).sqrt())


def min_progress(gramian: Tensor, weights: Tensor) -> Tensor:
    """Return the smallest `g_iᵀd` of a task whose weight is not 0, `[...]` float64.

    It is 0 where all weights are 0, and NaN where one is NaN.
    """
    wide = weights.double()
    smallest = torch.where(wide == 0, torch.inf, _progress(gramian, wide)).amin(-1)
    return torch.where((wide == 0).all(-1), 0, smallest)


def worsened(gramian: Tensor, weights: Tensor) -> Tensor:
    """Return 1 where a task's loss grows to first order along `−d`, `d = Σ_i w_i g_i`, else 0.

    A loss counts as growing if `g_iᵀd < 0` beyond rounding: by more than 1e-6 of the lengths.

    Args:
        gramian: `[..., K, K]`.
        weights: `[..., K]`.

    Returns:
        `[..., K]` float64, NaN where a weight or a gradient is.
    """
    progress = _progress(gramian, weights)
    length = (progress * weights).sum(-1, keepdim=True).clamp(min=0).sqrt()
    lengths = gramian.double().diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    worse = progress < -1e-6 * lengths * length
    return torch.where(progress.isnan(), progress, worse.double())


def _progress(gramian: Tensor, weights: Tensor) -> Tensor:
    """Return all `g_iᵀd`, `[..., K]` float64."""
    return (gramian.double() @ weights.double().unsqueeze(-1))[..., 0]
