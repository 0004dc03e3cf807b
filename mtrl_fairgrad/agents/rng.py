"""Random numbers of seeds that train together: one generator per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

STREAMS, RESETS, EXPLORATION = 1, 2, 3
"""Second word of `derived_seed`: the purpose of the generator."""


def derived_seed(*words: int) -> int:
    """Derive the seed of an independent generator from a run's seed and a purpose, in integers."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


class Noise(NamedTuple):
    """Random numbers of one update, drawn outside of it."""

    next_actions: Tensor
    """Standard normal `[S, K, B, A]`, for the actions of the Bellman targets."""
    actions: Tensor | None
    """Standard normal `[S, K, B, A]`, for the actions of the actor's loss; None in an update of the
    critics alone.
    """
    critic_method: Tensor | None = None
    actor_method: Tensor | None = None
    """Result of the method's `draw`, None for methods that draw nothing."""


class SeedStreams:
    """One `torch.Generator` per seed; every draw is `[S, *shape]`, row s from seed s's generator.

    The numbers of a seed do not depend on which other seeds train with it. CPU and CUDA generators
    differ, so a run is reproducible on the same kind of device only.

    Args:
        seeds: the run's seeds.
        device: where the numbers are drawn.
        purpose: second word of `derived_seed`.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        purpose: int = STREAMS,
    ) -> None:
        self.device = torch.device(device)
        # Networks are initialised from the seeds themselves; these numbers must not repeat them.
        self.generators = [
            torch.Generator(self.device).manual_seed(derived_seed(seed, purpose)) for seed in seeds
        ]

    def _stack(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self.generators])

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers `[S, *shape]`, float32."""
        return self._stack(lambda g: torch.randn(shape, generator=g, device=self.device))

    def uniform(self, *shape: int) -> Tensor:
        """Draw numbers `[S, *shape]` uniformly from [−1, 1), float32."""
        return self._stack(lambda g: torch.rand(shape, generator=g, device=self.device)) * 2 - 1

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw integers `[S, *shape]` uniformly from 0 to high − 1, int64."""
        return self._stack(lambda g: torch.randint(high, shape, generator=g, device=self.device))

    def state(self) -> Tensor:
        """Return the states of all generators, uint8 `[S, bytes]` on the CPU."""
        return torch.stack([generator.get_state() for generator in self.generators])

    def load_state(self, state: Tensor) -> None:
        """Restore what `state` returned for as many seeds."""
        for generator, row in zip(self.generators, state, strict=True):
            generator.set_state(row.cpu().clone())  # PyTorch 2.13 crashes on a view into the stack
