"""Timing in interleaved rounds, so that load on the machine affects everything compared alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from mtrl_fairgrad.utils.text_tables import counted

from .settings import Settings

Times = dict[str, list[float]]
"""Name -> seconds of each round."""
Clock = Callable[[], float]
"""Seconds since an arbitrary time."""


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    work: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    warm_up: int = 2,
    clock: Clock = time.perf_counter,
) -> Times:
    """Time each piece of `work` in each of `rounds` rounds, after `warm_up` uncounted rounds."""
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
    """Set each number of threads in turn; yield a suffix for names and the clock to use.

    One thread is timed by its processor time, which does not depend on other processes.
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
    """Return the median in milliseconds."""
    return 1e3 * statistics.median(seconds)


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))
