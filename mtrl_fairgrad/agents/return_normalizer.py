"""Scaling of rewards by their task's discounted return."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtrl_fairgrad.agents.running_moments import RunningMoments

EPSILON = 1e-8
"""Smallest scale, for tasks without a reward other than 0."""


class ReturnNormalizer:
    """Divide rewards by a scale of their task's discounted return, without centring.

    Every simulator keeps its own G ← γ·G + r, which starts anew with each episode. The statistics
    are those of all values that G took in any simulator of a task of a seed, in float64. The scale

        max(deviation of G, (max |G| + entropy term) / v_max)

    gives returns at most unit deviation and keeps values within [−v_max, v_max], the range of a
    categorical critic: SimbaV2 (Lee et al., 2025), with an entropy term as in BRC (Nauman et al.,
    2025). A soft value has the discounted entropy bonus b = temperature·|target entropy| / (1 − γ)
    as well, in units of *divided* rewards, so that |G| / scale + b ≤ v_max is wanted, which is the
    formula with the entropy term b·scale = max |G|·b / (v_max − b). BRC instead adds b / 2 to
    |G|, as if it had the units of raw rewards. Here b counts up to v_max / 2, since no scale makes
    room for a bonus beyond v_max.

    Args:
        seeds: S.
        copies: E.
        tasks: K.
        discount: γ; 1 is taken as 1 − 1e-8 in the bonus.
        v_max: largest value.
        target_entropy: of the policy, in nats.
        device: where the rewards are.
    """

    def __init__(
        self,
        seeds: int,
        copies: int,
        tasks: int,
        discount: float,
        v_max: float,
        target_entropy: float,
        device: torch.device | str = "cpu",
    ) -> None:
        self._discount, self._v_max = discount, v_max
        self._bonus = abs(target_entropy) / max(1 - discount, 1e-8)
        """Discounted entropy bonus at temperature 1."""
        self._returns = torch.zeros(seeds, copies, tasks, dtype=torch.float64, device=device)
        self._moments = RunningMoments(seeds, tasks, device=device)
        self._largest = torch.zeros(seeds, tasks, dtype=torch.float64, device=device)

    def update(self, rewards: Tensor, begins: Tensor, copies: slice) -> None:
        """Add one step of some copies to the statistics, without waiting for the device.

        Args:
            rewards: `[S, E', K]`.
            begins: bool `[S, E', K]`, whether the step is an episode's first.
            copies: which of the copies these are.
        """
        before = torch.where(begins, 0.0, self._returns[:, copies])
        returns = self._discount * before + rewards
        self._returns[:, copies] = returns
        self._moments.update(returns)
        sizes = torch.where(returns.isfinite(), returns.abs(), 0.0)
        torch.maximum(self._largest, sizes.amax(1), out=self._largest)

    def scale(self, temperature: Tensor) -> Tensor:
        """Return the divisors of rewards, `[S, K]`, for temperatures `[S, K]`."""
        bonus = (self._bonus * temperature).clamp(max=self._v_max / 2)
        return torch.maximum(self._moments.deviation, self._largest / (self._v_max - bonus)).clamp(
            min=EPSILON
        )

    def normalize(self, rewards: Tensor, temperature: Tensor) -> Tensor:
        """Return rewards `[S, K, B]` divided by the scale for temperatures `[S, K]`."""
        return rewards / self.scale(temperature).to(rewards.dtype).unsqueeze(-1)

    def state(self) -> dict[str, Tensor]:
        """Return the running returns `[S, E, K]` and their statistics."""
        return {
            "returns": self._returns,
            **self._moments.state(),
            "largest": self._largest,
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned for as many seeds, copies and tasks."""
        for name, value in self.state().items():
            value.copy_(state[name])
