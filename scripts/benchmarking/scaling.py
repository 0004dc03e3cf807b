"""Growth of an update with tasks at the same total batch, and with seeds in one process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .settings import TINY, Row, Settings, Size
from .timing import interleaved, milliseconds, ratio, thread_counts
from .update import learner, plain, updates

TASKS, SEEDS = (2, 10, 50), (1, 3, 10)
SAMPLES = 1280
"""Total batch; with 50 tasks 26 each, so 1,300."""


def tasks(settings: Settings) -> Iterator[Row]:
    """Yield rows of FairGrad and plain PyTorch; observations have the same length for every K."""
    samples, base = (50, TINY) if settings.quick else (SAMPLES, Size())
    sizes = {count: replace(base, tasks=count, batch=-(-samples // count)) for count in TASKS}
    work = {
        f"fairgrad_newton, K={count}": updates(learner(size, settings.device))
        for count, size in sizes.items()
    }
    for count, size in sizes.items():
        work[f"plain_ls, K={count}"] = plain(size, settings.device)["plain_ls"]
    for suffix, clock in thread_counts(settings):
        times = interleaved(work, settings.rounds, settings.device, clock=clock)
        for name, seconds in times.items():
            yield Row("tasks", name + suffix, milliseconds(seconds), "ms")
        for way in ("fairgrad_newton", "plain_ls"):
            grown = ratio(times[f"{way}, K=50"], times[f"{way}, K=10"])
            yield Row("tasks", f"{way}, K=50 / K=10{suffix}", grown, "×")


def seeds(settings: Settings) -> Iterator[Row]:
    """Yield rows of FairGrad."""
    base = TINY if settings.quick else Size()
    work = {
        f"S={count}": updates(learner(replace(base, seeds=count), settings.device))
        for count in SEEDS
    }
    for suffix, clock in thread_counts(settings):
        times = interleaved(work, settings.few, settings.device, clock=clock)
        for count in SEEDS:
            elapsed = times[f"S={count}"]
            yield Row("seeds", f"S={count}{suffix}", milliseconds(elapsed), "ms")
            yield Row(
                "seeds",
                f"S={count}, of each seed / S=1{suffix}",
                ratio(elapsed, times["S=1"]) / count,
                "×",
            )
