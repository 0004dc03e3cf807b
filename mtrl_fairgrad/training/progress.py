"""The position of a run, shared by the parts that need to know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """How far training is and how fast it goes."""

    env_steps: int = 0
    """Transitions of each task so far."""
    step_seconds: float = 0.0
    """Duration of a training step, as an exponential moving average with weight 0.05."""

    def count_step(self, seconds: float) -> None:
        """Count one training step that took `seconds`."""
        self.env_steps += 1
        self.step_seconds += 0.05 * (seconds - self.step_seconds)
