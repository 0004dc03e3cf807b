"""Learning rates of an agent's optimisers: constant, or falling linearly over the run's updates."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.config.agent import AgentConfig


class ConstantRates:
    """Learning rates that keep their values."""

    def rate(self, start: float) -> float:
        """Return the learning rate for an optimiser."""
        return start

    def advance(self, updates: Tensor) -> None:
        """Do nothing."""

    def state(self) -> Tensors:
        """Return nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Do nothing."""


class LinearRates:
    """Learning rates that fall linearly to a fraction of their first values, and stay there.

    They are tensors, so that an optimiser's step in a CUDA graph follows them. The length is part
    of the state: a run that is extended keeps its schedule and stays at the last values.

    Args:
        fraction: the last value of each rate, relative to its first.
        length: number of updates until then.
        device: where optimisers run.
    """

    def __init__(self, fraction: float, length: int, device: torch.device) -> None:
        self._fall = 1 - fraction
        self._rates: dict[float, Tensor] = {}
        self.length = torch.tensor(max(length, 1), dtype=torch.int64, device=device)

    def rate(self, start: float) -> Tensor:
        """Return a learning rate that begins at `start`: float32 `[]`, changed by `advance`."""
        fresh = torch.tensor(start, dtype=torch.float32, device=self.length.device)
        return self._rates.setdefault(start, fresh)

    def advance(self, updates: Tensor) -> None:
        """Set the rates for the update with this number, counted from 0, int64 `[]`."""
        factor = 1 - self._fall * (updates.double() / self.length).clamp(max=1.0)
        for start, rate in self._rates.items():
            rate.copy_(start * factor)

    def state(self) -> Tensors:
        """Return the length of the schedule."""
        return {"length": self.length}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.length.copy_(state["length"])


Rates = ConstantRates | LinearRates


def rates_of(config: AgentConfig, updates: int | None, device: torch.device) -> Rates:
    """Make the schedule of all learning rates.

    The temperatures' rate falls in proportion to that of the networks, as in FlashSAC.

    Args:
        config: the agent's.
        updates: number of updates of the run; needed for `learning_rate_end`.
        device: where optimisers run.

    Raises:
        ValueError: the number of updates is needed and None.
    """
    if config.learning_rate_end is None:
        return ConstantRates()
    if updates is None:
        raise ValueError("learning_rate_end needs the number of updates of the run: give updates.")
    return LinearRates(config.learning_rate_end / config.learning_rate, updates, device)
