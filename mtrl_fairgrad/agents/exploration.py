"""Random actions that last for several steps, by which simulators leave what the policy does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.agents.rng import EXPLORATION, SeedStreams

LONGEST = 12
"""Steps that a random action lasts at most; all lengths from 1 are equally likely."""


class RandomActions:
    """Temporally extended ε-greedy exploration (Dabney et al., 2021).

    In each step each simulator begins with probability ε to repeat one action, uniform in [−1, 1],
    for 1 to `LONGEST` steps. SAC's own noise is new in each step, and where the entropy is low it
    does not lead out of a pose. With copies, only those of the second half explore, so that half of
    the transitions are the policy's own.

    The random numbers are drawn on the CPU, where the simulators take the actions.

    Args:
        seeds: the run's seeds, S.
        copies: E, 1 or even.
        tasks: K.
        action_dim: A.
        rate: ε, above 0 and at most 1.
    """

    def __init__(
        self, seeds: Sequence[int], copies: int, tasks: int, action_dim: int, rate: float
    ) -> None:
        self._streams = SeedStreams(seeds, purpose=EXPLORATION)
        self._rate = rate
        self._half = int(copies > 1)
        shape = len(seeds), max(1, copies // 2), tasks
        self.actions = torch.zeros(*shape, action_dim)
        self.remaining = torch.zeros(shape, dtype=torch.int64)
        """Steps for which each simulator still repeats its action, `[S, E', K]`."""

    def replace(self, actions: NDArray[np.float32], half: int) -> NDArray[np.float32]:
        """Return a half's actions `[S, E', K, A]` with random ones in some rows."""
        if half != self._half:
            return actions
        shape = self.remaining.shape[1:]
        fresh = self._streams.uniform(*shape, actions.shape[-1])
        lengths = self._streams.integers(LONGEST, *shape) + 1
        begins = (self._streams.uniform(*shape) + 1) / 2 < self._rate
        begins &= self.remaining == 0
        self.actions[begins] = fresh[begins]
        self.remaining[begins] = lengths[begins]
        explores = self.remaining > 0
        self.remaining -= explores.long()
        return np.where(explores.unsqueeze(-1).numpy(), self.actions.numpy(), actions)

    def state(self) -> Tensors:
        """Return actions, remaining steps and generators."""
        return {
            "actions": self.actions,
            "remaining": self.remaining,
            "generators": self._streams.state(),
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state` returned."""
        self.actions.copy_(state["actions"])
        self.remaining.copy_(state["remaining"])
        self._streams.load_state(state["generators"])
