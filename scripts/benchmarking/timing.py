"""Timing in rounds that interleave everything to be compared, so that a busy machine disturbs all
alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from mtrl_fairgrad.utils.text_tables import counted

from .settings import Settings

Times = dict[str, list[float]]
"""Seconds of each round, by name."""
Clock = Callable[[], float]
"""Seconds since some time."""


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    work: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    warm_up: int = 2,
    clock: Clock = time.perf_counter,
) -> Times:
    """Seconds of each piece of `work` in each of `rounds` rounds; `warm_up` more go before and are
    not counted.
    """
    times: Times = {name: [] for name in work}
    for number in range(-warm_up, rounds):
        for name, do in work.items():
            wait(device)
            started = clock()
            do()
            wait(device)
            if number >= 0:
                times[name].append(clock() - started)
    return times


def thread_counts(settings: Settings) -> Iterator[tuple[str, Clock]]:
    """For each number of threads, which PyTorch then has: what to add to names, and the clock.

    One thread is timed by the processor time it takes, of which other processes on the machine take
    nothing away.
    """
    before = torch.get_num_threads()
    try:
        for threads in settings.threads():
            torch.set_num_threads(threads)
            if settings.device.type == "cpu":
                yield (
                    f", {counted(threads, 'thread')}",
                    time.process_time if threads == 1 else time.perf_counter,
                )
            else:
                yield "", time.perf_counter
    finally:
        torch.set_num_threads(before)


def milliseconds(seconds: Sequence[float]) -> float:
    """The median."""
    return 1e3 * statistics.median(seconds)


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))
