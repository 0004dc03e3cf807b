"""The solution of FairGrad's equation alone: the fused kernel and the form on the CPU.

The kernel is replayed from a CUDA graph many times between two events, so that its row is time of
the GPU alone. The form on the CPU is timed as a call, with copies from and to the device.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mtrl_fairgrad.utils.text_tables import counted
from mtrl_fairgrad.weighting import solvers

from .replay import capture_whole
from .settings import Row, Settings
from .timing import interleaved, milliseconds

TASKS, SEEDS, ALPHA = (10, 50, 64), (1, 10), 2.0
REPLAYS, WARM_UP = 50, 0.1
"""Replays of one measurement, and seconds of replays before the first one: while the CPU compiles,
the GPU may lower its clock.
"""

FORMS: dict[str, Callable[[Tensor], Any]] = {
    "newton, host": lambda gramian: solvers.newton(gramian, ALPHA, form="host"),
    "newton, kernel": lambda gramian: solvers.newton(gramian, ALPHA, form="kernel"),
    "sgd, kernel": lambda gramian: solvers.sgd(gramian, ALPHA),
}


def name(form: str, tasks: int, seeds: int) -> str:
    """Return the name of a row."""
    return f"solve {form}, K={tasks}, {counted(seeds, 'seed')}"


def gramians(tasks: int, seeds: int, device: torch.device) -> Tensor:
    """Return Gramians `[S, K, K]` of gradients with a common part and norms over two decades."""
    generator = torch.Generator().manual_seed(tasks)
    normal = torch.randn(seeds, tasks + 1, 4 * tasks, generator=generator)
    norms = 10 ** (2 * torch.rand(seeds, tasks, 1, generator=generator) - 1)
    gradients = (normal[:, 1:] + 0.5 * normal[:, :1]) * norms
    return (gradients @ gradients.mT).to(device)


def measure(section: str, settings: Settings) -> Iterator[Row]:
    """Yield microseconds of each form; those of the kernel only on CUDA."""
    cuda = settings.device.type == "cuda"
    for tasks in TASKS:
        for seeds in SEEDS:
            given = gramians(tasks, seeds, settings.device)
            for form, solve in FORMS.items():
                if form.endswith("kernel") and not cuda:
                    continue
                taken = _replayed if form.endswith("kernel") else _called
                value = taken(lambda solve=solve, given=given: solve(given), settings)
                yield Row(section, name(form, tasks, seeds), value, "µs")


def _called(solve: Callable[[], Any], settings: Settings) -> float:
    """Return microseconds of a call."""
    times = interleaved({"solve": solve}, settings.rounds, settings.device)
    return 1e3 * milliseconds(times["solve"])


def _replayed(solve: Callable[[], Any], settings: Settings) -> float:
    """Return the median of microseconds of the GPU for one replay."""
    replay = capture_whole(solve)

    def measured() -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(REPLAYS):
            replay()
        end.record()
        end.synchronize()
        return 1e3 * begin.elapsed_time(end) / REPLAYS

    until = time.monotonic() + WARM_UP
    while time.monotonic() < until:
        measured()
    return statistics.median(measured() for _ in range(settings.rounds))
