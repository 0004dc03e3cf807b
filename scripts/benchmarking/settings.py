"""What a section of the benchmark is told, what it answers, and the sizes of the problems."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """One measured number."""

    section: str
    name: str
    """Unique in its section; of a ratio, `this / that`."""
    value: float
    unit: str


@dataclass(frozen=True)
class Settings:
    """How thoroughly to measure, and where."""

    device: torch.device
    quick: bool
    """Everything as small as it can be: shows that it runs, its numbers mean nothing."""
    rounds: int = 15
    """Rounds of work that takes a tenth of a second; sections whose work takes seconds make fewer.
    """
    steps: int = 100_000
    """Vector steps of the long run."""

    @property
    def few(self) -> int:
        """Rounds of work that takes seconds."""
        return max(1, self.rounds // 3)

    def threads(self) -> list[int]:
        """The learner's numbers of threads to compare: one and the cores, on a GPU only those it
        has now.
        """
        if self.device.type != "cpu" or self.quick:
            return [torch.get_num_threads()]
        return sorted({1, cores()})


@dataclass(frozen=True)
class Size:
    """An update's shape, the paper's by default: MT10's one-hot observations, 1,280 samples in all."""

    tasks: int = 10
    batch: int = 128
    """Samples of each task."""
    width: int = 400
    seeds: int = 1
    observation: int = 49
    action: int = 4
    depth: int = 3


TINY = Size(tasks=3, batch=4, width=8, observation=6, action=2)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
