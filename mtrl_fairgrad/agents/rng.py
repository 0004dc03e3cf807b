"""Random numbers for seeds that train side by side, one generator per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def derived_seed(*words: int) -> int:
    """The seed of a generator of its own for these numbers: a run's seed, what the generator is
    for, and more.

    Second words in use: 1 `SeedStreams`, 2 resets.
    """
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


class SeedStreams:
    """One `torch.Generator` per seed; every draw is `[S, *shape]`, row s from seed s's own
    generator.

    A seed's numbers therefore do not depend on which seeds train beside it. CPU and CUDA generators
    differ, so a run is reproducible on the kind of device it was made on.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        # Not the seeds themselves: those initialise the networks, and the two must not repeat each
        # other.
        derived = (derived_seed(seed, 1) for seed in seeds)
        self.generators = [torch.Generator(self.device).manual_seed(number) for number in derived]

    def _stack(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self.generators])

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers `[S, *shape]`, float32."""
        return self._stack(lambda g: torch.randn(shape, generator=g, device=self.device))

    def uniform(self, *shape: int) -> Tensor:
        """Numbers `[S, *shape]` uniform in [−1, 1), float32."""
        return self._stack(lambda g: torch.rand(shape, generator=g, device=self.device)) * 2 - 1

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers `[S, *shape]` uniform in 0 … high − 1, int64."""
        return self._stack(lambda g: torch.randint(high, shape, generator=g, device=self.device))

    def state(self) -> Tensor:
        """All generators' states, uint8 `[S, bytes]` on the CPU."""
        return torch.stack([generator.get_state() for generator in self.generators])

    def load_state(self, state: Tensor) -> None:
        """Continue from what `state` returned for the same number of seeds."""
        for generator, row in zip(self.generators, state, strict=True):
            generator.set_state(row.cpu().clone())  # a view into the stack would crash PyTorch 2.13
