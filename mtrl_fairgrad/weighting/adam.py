"""Adam for the few numbers that a method learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Adam(nn.Module):
    """`torch.optim.Adam` as a module: its state is saved, moved and reset with its method.

    Every element of the leading axes counts its own steps, so that an element that skips a step
    continues as if that step had not happened. PyTorch's Adam has one count for a whole tensor and
    reads it on the host.

    Args:
        shape: shape of the learned tensor, `[..., K]`.
    """

    mean: Tensor
    square: Tensor
    steps: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(*shape, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(*shape, dtype=torch.float64))
        # Float, because a Python number to the power of an integer tensor has single precision.
        self.register_buffer("steps", torch.zeros(*shape[:-1], 1, dtype=torch.float64))

    def reset(self) -> None:
        """Return to the state before the first step."""
        for buffer in self.buffers():
            buffer.zero_()

    def step(
        self,
        value: Tensor,
        gradient: Tensor,
        where: Tensor,
        learning_rate: float,
        weight_decay: float = 0.0,
    ) -> None:
        """Take one step in place.

        Args:
            value: the learned tensor `[..., K]`.
            gradient: `[..., K]`.
            where: `[..., 1]` bool; other elements of the leading axes stay as they are.
            learning_rate: the step size.
            weight_decay: multiple of the value added to the gradient, as in `torch.optim.Adam`.
        """
        beta, gamma = BETAS
        if weight_decay:
            gradient = gradient + weight_decay * value
        steps = self.steps + 1
        mean = beta * self.mean + (1 - beta) * gradient
        square = gamma * self.square + (1 - gamma) * gradient.square()
        scale = (square / (1 - gamma**steps)).sqrt() + EPSILON
        moved = value - learning_rate * mean / (1 - beta**steps) / scale
        for old, new in (
            (value, moved),
            (self.mean, mean),
            (self.square, square),
            (self.steps, steps),
        ):
            torch.where(where, new, old, out=old)
