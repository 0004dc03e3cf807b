"""Description of the machine, and resource use of processes on Linux."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from mtrl_fairgrad.runs.manifest import manifest

from .settings import cores

PROC = Path("/proc")
KNOWN = (PROC / "self" / "statm").exists()
"""Whether this system reports the resources of processes."""


def describe(device: torch.device) -> dict[str, Any]:
    """Return CPU, GPU, versions and commit, without host or user names."""
    record = manifest([], str(device))
    cuda = device.type == "cuda"
    return {
        "cpu": _processor(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        **(gpu_software() if cuda else {}),
        "threads": torch.get_num_threads(),
        **{key: record[key] for key in ("device", "platform", "versions", "git", "started")},
    }


def gpu_software() -> dict[str, str | None]:
    """Return the versions of the driver, of CUDA and of Triton; None for what is not found."""
    return {
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
    }


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def summary(machine: dict[str, Any]) -> str:
    """Return the description in one line."""
    versions, git = machine["versions"], machine["git"]
    commit = (
        "no commit" if git is None else git["commit"][:10] + ("+changes" if git["dirty"] else "")
    )
    parts = [
        *([machine["gpu"]] if machine["gpu"] else []),
        *(f"{name} {machine[name]}" for name in ("driver", "cuda", "triton") if machine.get(name)),
        f"{machine['cpu']}, {machine['cores']} cores",
        *(
            f"{name} {versions[name]}"
            for name in ("torch", "mujoco", "metaworld")
            if name in versions
        ),
        commit,
    ]
    return ", ".join(parts)


def _processor() -> str:
    path = PROC / "cpuinfo"
    if path.exists():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; only where `KNOWN`."""
    return int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process; only where `KNOWN`."""
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) does
