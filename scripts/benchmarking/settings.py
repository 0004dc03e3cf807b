"""Settings of a section of the benchmark, the rows it yields, and the sizes of the problems."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """One measured number."""

    section: str
    name: str
    """Unique in its section; for a ratio, `numerator / denominator`."""
    value: float
    unit: str


@dataclass(frozen=True)
class Settings:
    """Device, number of rounds and sizes of a measurement."""

    device: torch.device
    quick: bool
    """Use the smallest sizes, to test the script; the numbers mean nothing."""
    rounds: int = 15
    """Rounds of work that takes a tenth of a second; slower sections run fewer."""
    steps: int = 100_000
    """Vector steps of the long run."""
    minutes: float = 3.5
    """Longest duration of the section `gpu`."""

    @property
    def few(self) -> int:
        """Number of rounds for work that takes seconds."""
        return max(1, self.rounds // 3)

    def threads(self) -> list[int]:
        """Return the numbers of threads to compare: one and all cores; on a GPU the current one."""
        if self.device.type != "cpu" or self.quick:
            return [torch.get_num_threads()]
        return sorted({1, cores()})


@dataclass(frozen=True)
class Size:
    """Sizes of an update; by default the paper's, with MT10's one-hot observations."""

    tasks: int = 10
    batch: int = 128
    """Samples of each task, 1,280 in total by default."""
    width: int = 400
    seeds: int = 1
    observation: int = 49
    action: int = 4
    depth: int = 3


TINY = Size(tasks=3, batch=4, width=8, observation=6, action=2)


def cores() -> int:
    """Return the number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
