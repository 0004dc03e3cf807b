"""Where an update's time goes, by PyTorch's profiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile

from .settings import Row, Settings
from .timing import wait

GROUPS = {
    "matrix products": ("::mm", "::bmm", "::addmm", "::baddbmm", "gemm", "gemv", "cutlass", "xmma"),
    "biases and activations": ("::add", "relu", "clamp", "threshold"),
    "Adam": ("adam", "foreach", "multi_tensor"),
    "copies": ("copy", "cat", "stack", "clone", "index", "fill", "zero", "memcpy", "memset"),
}
"""Which operations and kernels belong together, by parts of their names; the first group that fits
has one.
"""
OTHERS, OUTSIDE = "other operations", "outside operations"
"""Losses, sums, norms; and what no operation accounts for: Python and dispatch."""


def measure(
    section: str, name: str, update: Callable[[], Any], settings: Settings
) -> Iterator[Row]:
    """Shares of the update's time, in percent; on a GPU of the time the device was at work."""
    device, rounds = settings.device, settings.few
    cuda = device.type == "cuda"
    update()
    wait(device)
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    ) as found:
        started = time.perf_counter()
        for _ in range(rounds):
            update()
        wait(device)
        wall = 1e6 * (time.perf_counter() - started)
    spent = dict.fromkeys((*GROUPS, OTHERS), 0.0)
    for event in found.key_averages():
        taken = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[_group(event.key)] += float(taken)
    total = sum(spent.values())
    if not cuda:
        spent[OUTSIDE] = max(wall - total, 0.0)
        total = max(wall, total)
    for group, microseconds in spent.items():
        yield Row(section, f"{name}: {group}", 100 * microseconds / total, "%")


def _group(key: str) -> str:
    lower = key.lower()
    return next(
        (group for group, parts in GROUPS.items() if any(part in lower for part in parts)), OTHERS
    )
