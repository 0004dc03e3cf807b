"""The position of a run, shared by the parts that need to know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """How far training is."""

    env_steps: int = 0
    """Transitions of each task so far, by all its simulators."""
    copies: int = 1
    """Simulators of each task, which is the number of its transitions in a vector step."""

    def count_step(self) -> None:
        """Count one vector step."""
        self.env_steps += self.copies

    def passes(self, every: int) -> bool:
        """Whether the last vector step reached or passed a multiple of `every`, which 0 is."""
        return self.env_steps % every < self.copies
