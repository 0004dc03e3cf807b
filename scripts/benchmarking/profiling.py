"""The parts of an update's time, by PyTorch's profiler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .settings import Row, Settings
from .timing import wait

LIBRARY = "gemm", "gemv", "cutlass", "xmma", "nvjet", "splitk"
"""Parts of the names of cuBLAS's kernels."""
GROUPS = {
    "matrix products": ("::mm", "::bmm", "::addmm", "::baddbmm", *LIBRARY),
    "biases and activations": ("::add", "relu", "clamp", "threshold"),
    "Adam": ("adam", "foreach", "multi_tensor"),
    "copies": ("copy", "cat", "stack", "clone", "index", "fill", "zero", "memcpy", "memset"),
}
"""Groups of operations and kernels, by parts of their names; the first matching group counts."""
OTHERS, OUTSIDE = "other operations", "outside operations"
"""Losses, sums and norms; and time outside operations: Python and dispatch."""

PARTS = {
    "solve": ("newton_kernel", "sgd_kernel"),
    "matrix products": GROUPS["matrix products"],
    "copies to and from the host": ("memcpy dtoh", "memcpy htod"),
}
"""Groups of kernels by which an update on a GPU is divided; the rest is the rest."""
REST = "rest"


def measure(
    section: str, name: str, update: Callable[[], Any], settings: Settings
) -> Iterator[Row]:
    """Yield shares of the update's time in percent; on a GPU, of the device's busy time."""
    device, rounds = settings.device, settings.few
    cuda = device.type == "cuda"
    update()
    wait(device)
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    ) as profiled:
        started = time.perf_counter()
        for _ in range(rounds):
            update()
        wait(device)
        wall = 1e6 * (time.perf_counter() - started)
    spent = dict.fromkeys((*GROUPS, OTHERS), 0.0)
    for event in profiled.key_averages():
        taken = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[_group(event.key)] += float(taken)
    total = sum(spent.values())
    if not cuda:
        spent[OUTSIDE] = max(wall - total, 0.0)
        total = max(wall, total)
    for group, microseconds in spent.items():
        yield Row(section, f"{name}: {group}", 100 * microseconds / total, "%")


def parts(section: str, name: str, update: Callable[[], Any], settings: Settings) -> Iterator[Row]:
    """Yield the number of kernels and copies of an update, and microseconds of the GPU by part.

    Without a GPU these are operations and their time on the CPU.
    """
    cuda, rounds = settings.device.type == "cuda", settings.rounds
    update()
    wait(settings.device)
    with profile(
        activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU], acc_events=True
    ) as profiled:
        for _ in range(rounds):
            update()
        wait(settings.device)
    spent, launched = dict.fromkeys((*PARTS, REST), 0.0), 0
    for event in profiled.key_averages():
        if (event.device_type == DeviceType.CUDA) == cuda:
            taken = event.self_device_time_total if cuda else event.self_cpu_time_total
            spent[_group(event.key, PARTS, REST)] += float(taken)
            launched += event.count
    yield Row(section, f"{name}: kernels", launched / rounds, "launches")
    for part, microseconds in spent.items():
        yield Row(section, f"{name}: {part}", microseconds / rounds, "µs")


def _group(key: str, groups: dict[str, tuple[str, ...]] = GROUPS, others: str = OTHERS) -> str:
    lower = key.lower()
    return next(
        (group for group, parts in groups.items() if any(part in lower for part in parts)), others
    )
