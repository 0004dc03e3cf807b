"""Mean and deviation of all values so far."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMoments:
    """Mean and standard deviation of numbers that come in parts, for each of some rows.

    Computed in float64 by the parallel form of Welford's algorithm (Chan et al., 1979), without
    waiting for the device.

    Args:
        shape: of the rows, whose first axis is that of the seeds: `[S, ...]`.
        device: where the values are.
    """

    def __init__(self, *shape: int, device: torch.device | str = "cpu") -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.mean = torch.zeros(shape, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self.mean)
        """Sums of squared distances from the mean."""

    def update(self, values: Tensor) -> None:
        """Add n values of each row, `[S, n, ...]`; the mean takes the place of non-finite ones."""
        values = torch.where(values.isfinite(), values, self.mean.unsqueeze(1))
        mean, number = values.mean(1), values.shape[1]
        squares = (values - mean.unsqueeze(1)).square().sum(1)
        total, delta = self.count + number, mean - self.mean
        self._squares += squares + delta.square() * (self.count * number / total)
        self.mean += delta * (number / total)
        self.count.copy_(total)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation, `[S, ...]`; 0 before the first value."""
        return (self._squares / self.count.clamp(min=1)).sqrt()

    def state(self) -> dict[str, Tensor]:
        """Return the statistics, without copying."""
        return {"count": self.count, "mean": self.mean, "squares": self._squares}
