"""The scale of each task's rewards, followed while they come in."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-8
"""Added to the standard deviation, against a division by 0."""


class RewardNormalizer:
    """Divides every reward by a running standard deviation of its task's rewards, without centring.

    Mean and variance are exponential averages `[S, K]`, float64, from 0 and 1; each reward moves
    them before it is divided. A reward is stored as it was scaled when it came in. Where a task's
    rewards stay the same for thousands of steps the deviation falls towards 0 and scaled rewards
    grow.

    Args:
        seeds: S.
        tasks: K.
        device: where rewards are.
        rate: share of a new reward in the averages; 0.001 is that of the code behind the FairGrad
            paper's MT10 runs.
    """

    def __init__(
        self, seeds: int, tasks: int, device: torch.device | str = "cpu", rate: float = 0.001
    ) -> None:
        self.rate = rate
        self.mean = torch.zeros(seeds, tasks, dtype=torch.float64, device=device)
        self.variance = torch.ones(seeds, tasks, dtype=torch.float64, device=device)

    @property
    def deviation(self) -> Tensor:
        """What the next reward would about be divided by, `[S, K]`."""
        return self.variance.sqrt() + SMALLEST

    def scaled(self, rewards: Tensor) -> Tensor:
        """One step's rewards `[S, K]`, counted and divided, in their own dtype."""
        self.mean += self.rate * (rewards - self.mean)
        self.variance += self.rate * ((rewards - self.mean).square() - self.variance)
        return (rewards / self.deviation).to(rewards.dtype)

    def state(self) -> dict[str, Tensor]:
        """Both averages, `[S, K]`."""
        return {"mean": self.mean, "variance": self.variance}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned for as many seeds and tasks.

        Raises:
            ValueError: it is of another shape.
        """
        for name, average in self.state().items():
            if state[name].shape != average.shape:
                raise ValueError(
                    f"the checkpoint's reward {name} is {tuple(state[name].shape)} but this run's "
                    "is "
                    f"{tuple(average.shape)}: resume with the configuration the run was started "
                    "with."
                )
            average.copy_(state[name])
