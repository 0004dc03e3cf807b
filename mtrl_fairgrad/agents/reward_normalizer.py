"""Running normalisation of each task's rewards."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8
"""Added to the standard deviation, against division by 0."""


class RewardNormalizer:
    """Divide rewards by a running standard deviation of their task, without centring.

    Mean and variance are exponential averages `[S, K]`, float64, starting from 0 and 1. A reward
    updates them before it is divided; the replay buffer stores the quotient. If a task's
    rewards stay constant for thousands of steps, the deviation tends to 0 and normalised rewards
    grow. A reward that is not finite counts as the mean, so that later ones stay finite.

    Args:
        seeds: S.
        tasks: K.
        device: where the rewards are.
        rate: weight of a new reward in the averages; 0.001 is that of the code behind the FairGrad
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
        """Current standard deviation, `[S, K]`."""
        return self.variance.sqrt() + EPSILON

    def normalize(self, rewards: Tensor) -> Tensor:
        """Update the averages by rewards `[S, E', K]`, copy by copy; return them divided."""
        return torch.stack([self._normalize(each) for each in rewards.unbind(1)], dim=1)

    def _normalize(self, rewards: Tensor) -> Tensor:
        """Update the averages by one reward of every task, `[S, K]`; return them divided."""
        known = torch.where(rewards.isfinite(), rewards, self.mean)
        self.mean += self.rate * (known - self.mean)
        self.variance += self.rate * ((known - self.mean).square() - self.variance)
        return (rewards / self.deviation).to(rewards.dtype)

    def state(self) -> dict[str, Tensor]:
        """Return both averages, `[S, K]`."""
        return {"mean": self.mean, "variance": self.variance}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned for as many seeds and tasks.

        Raises:
            ValueError: the averages have another shape.
        """
        for name, average in self.state().items():
            if state[name].shape != average.shape:
                raise ValueError(
                    f"the checkpoint holds a reward {name} of shape {tuple(state[name].shape)} but "
                    f"this run needs {tuple(average.shape)}: "
                    "use the configuration the run was started with."
                )
            average.copy_(state[name])
