"""Gramians without the bias of noise, from the gradients of two halves of each task's batch.

A gradient from samples is `g_i = μ_i + ε_i`, so that `g_iᵀg_i` is too large by the trace of the
covariance of ε_i on average: a task whose loss has converged has a long gradient all the same.
Gradients `gᵃ` and `gᵇ` of two halves of a batch have independent noise, and

    M_ij = ½ (gᵃ_iᵀgᵇ_j + gᵇ_iᵀgᵃ_j)

is `μ_iᵀμ_j` on average, on the diagonal too. It need not be positive semi-definite.

Here a Jacobian has two rows behind one another for each task, its halves', and `halves` is the
Gramian of these rows, `[..., 2K, 2K]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mtrl_fairgrad.utils.validation import ConfigError

if TYPE_CHECKING:
    from mtrl_fairgrad.weighting.base import Method


def check_halves(halves: Tensor) -> None:
    """Check the shape `[..., 2K, 2K]`.

    Raises:
        ValueError: the shape is wrong.
    """
    if halves.ndim < 2 or halves.shape[-1] != halves.shape[-2] or halves.shape[-1] % 2:
        raise ValueError(
            f"gramian of shape {tuple(halves.shape)} is not allowed: give [..., 2K, 2K], the inner "
            "products of two gradients of each task, from the halves of its batch."
        )


def rows_of_halves(values: Tensor) -> Tensor:
    """Repeat each of the tasks' values `[..., K]` for its two rows, `[..., 2K]`."""
    return values.unsqueeze(-1).expand(*values.shape, 2).flatten(-2)


def whole_gramian(halves: Tensor) -> Tensor:
    """Return the Gramian `[..., K, K]` of the means of each task's two rows."""
    return _blocks(halves).mean((-3, -1))


def unbiased_gramian(halves: Tensor) -> Tensor:
    """Return the symmetric part of the products of different halves, `[..., K, K]`."""
    blocks = _blocks(halves)
    return (blocks[..., 0, :, 1] + blocks[..., 1, :, 0]) / 2


def ratio_of_squares(unbiased: Tensor, whole: Tensor) -> Tensor:
    """Return the quotients of the diagonals of two Gramians `[..., K, K]`, 0 for 0/0."""
    above, below = (each.diagonal(dim1=-2, dim2=-1) for each in (unbiased, whole))
    return torch.where(below > 0, above / torch.where(below > 0, below, 1), below)


def _blocks(halves: Tensor) -> Tensor:
    """View `[..., 2K, 2K]` as `[..., K, 2, K, 2]`."""
    tasks = halves.shape[-1] // 2
    return halves.reshape((*halves.shape[:-2], tasks, 2, tasks, 2))


def check_whole_batch(method: Method) -> None:
    """Check that a method takes the gradients of whole batches, since losses have no batch axis.

    Raises:
        ConfigError: it needs those of halves.
    """
    if method.splits_batch:
        raise ConfigError(
            "gramian=half_batches needs the gradients of two halves of each task's batch, which "
            "losses of one graph do not have: choose plain, or write the loss of one task for "
            "mtrl_fairgrad.combine.",
            "gramian",
            "half_batches",
        )
