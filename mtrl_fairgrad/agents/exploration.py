"""Noise of the actions by which a policy explores: new in each step, or kept for several."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.agents.rng import SeedStreams


class NewNoise:
    """Noise that is new in each step.

    Args:
        streams: draw the numbers.
        tasks: K.
        action_dim: A.
    """

    def __init__(self, streams: SeedStreams, tasks: int, action_dim: int) -> None:
        self._streams, self._shape = streams, (tasks, action_dim)

    def draw(self, copies: int, half: int = 0) -> Tensor:
        """Draw standard normal noise `[S, E', K, A]` for a step of so many copies."""
        return self._streams.normal(copies, *self._shape)

    def state(self) -> Tensors:
        """Return nothing: the streams are saved by their owner."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Do nothing."""


class RepeatedNoise:
    """Noise that each simulator keeps for k of its steps, k from 1 to `longest` with P(k) ∝ 1/k².

    Actions that point the same way for a while lead further (Dabney et al., 2021: durations from a
    zeta distribution). As in FlashSAC (exponent 2, at most 16 steps) ends of episodes play no part.

    Args:
        streams: draw the numbers, as many in each step.
        copies: E.
        tasks: K.
        action_dim: A.
        longest: largest number of steps.
    """

    def __init__(
        self, streams: SeedStreams, copies: int, tasks: int, action_dim: int, longest: int
    ) -> None:
        self._streams = streams
        shape = len(streams.generators), copies, tasks
        self.noise = torch.zeros(*shape, action_dim, device=streams.device)
        self.remaining = torch.zeros(shape, dtype=torch.int64, device=streams.device)
        """Steps for which each simulator still keeps its noise, `[S, E, K]`."""
        self._longer = _share_of_longer(longest).to(streams.device)

    def draw(self, copies: int, half: int = 0) -> Tensor:
        """Return standard normal noise `[S, E', K, A]` for a step of a half, of so many copies."""
        shape, mine = self.noise.shape[2:], slice(half * copies, (half + 1) * copies)
        noise, remaining = self.noise[:, mine], self.remaining[:, mine]
        fresh = self._streams.normal(copies, *shape)
        uniform = (self._streams.uniform(copies, shape[0]) + 1) / 2
        steps = 1 + (uniform.unsqueeze(-1) < self._longer).sum(-1)
        over = remaining == 0
        noise.copy_(torch.where(over.unsqueeze(-1), fresh, noise))
        remaining.copy_(torch.where(over, steps, remaining) - 1)
        return noise.clone()

    def state(self) -> Tensors:
        """Return noise and remaining steps."""
        return {"noise": self.noise, "remaining": self.remaining}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.noise.copy_(state["noise"])
        self.remaining.copy_(state["remaining"])


def _share_of_longer(longest: int) -> Tensor:
    """Return P(k > i) for i = 1 … longest − 1, where P(k) ∝ 1/k² up to k = longest."""
    shares = torch.arange(1, longest + 1, dtype=torch.float64) ** -2
    return 1 - (shares.cumsum(0) / shares.sum())[:-1]


Exploration = NewNoise | RepeatedNoise


def exploration_of(
    streams: SeedStreams, copies: int, tasks: int, action_dim: int, longest: int
) -> Exploration:
    """Make the noise of a run; arguments as of `RepeatedNoise`, `longest` from 1."""
    if longest == 1:
        return NewNoise(streams, tasks, action_dim)
    return RepeatedNoise(streams, copies, tasks, action_dim, longest)
