"""What tests of methods with a memory feed them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def loss_course(calls: int, *shape: int, seed: int = 0) -> Tensor:
    """Positive losses `[calls, *shape]`, float64, which fall at speeds of their own, with noise."""
    generator = torch.Generator().manual_seed(seed)
    start, speed = (torch.rand(2, *shape, generator=generator, dtype=torch.float64) + 0.1).unbind(0)
    noise = 0.3 * torch.randn(calls, *shape, generator=generator, dtype=torch.float64)
    time = torch.arange(calls, dtype=torch.float64).reshape(-1, *(1,) * len(shape)) / calls
    return 10 * start * torch.exp(noise - 2 * speed * time)


def as_jacobian(rows: Tensor) -> dict[str, Tensor]:
    """Gradients `[..., K, P]`, P even, as those of a matrix (empty for P = 2), a vector and a
    scalar.
    """
    *leading, size = rows.shape
    matrix, bias, scale = rows.split([size - 2, 1, 1], -1)
    return {
        "layer.weight": matrix.reshape(*leading, 2, -1),
        "layer.bias": bias,
        "scale": scale[..., 0],
    }


def as_vector(direction: Mapping[str, Tensor], axes: int = 0) -> Tensor:
    """A direction of the parameters of `as_jacobian` as `[..., P]`, with so many leading axes."""
    return torch.cat([part.unsqueeze(-1).flatten(axes) for part in direction.values()], -1)
