"""The manifest of a run: what its numbers depend on beside its configuration."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    "mtrl-fairgrad",
    "torch",
    "numpy",
    "scipy",
    "gymnasium",
    "metaworld",
    "mujoco",
    "safetensors",
)


def manifest(
    overrides: Sequence[str],
    device: str,
    protocol: Mapping[str, Any] | None = None,
    accelerator: str | None = None,
) -> dict[str, Any]:
    """Versions, code, machine and protocol; names no host, user or home folder.

    Args:
        overrides: the command line.
        device: what the learner runs on.
        protocol: how success is measured, in any form; runs of different protocols are never
            averaged.
        accelerator: the device's model, if it is none of the processor.
    """
    home = re.compile(rf"{re.escape(str(Path.home()))}(?=/|$)|/(?:home|Users)/[^/,\s\]'\"]+")
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "overrides": [home.sub("~", override) for override in overrides],
        "protocol": dict(protocol or {}),
        "versions": versions,
        "git": _git(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "device": device,
        "accelerator": accelerator,
    }


def config_sha256(config: Mapping[str, Any]) -> str:
    """The digest of a configuration without `steps`, the one option that a run may change while it
    goes on.
    """
    fixed = {key: value for key, value in config.items() if key != "steps"}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """Commit and whether anything differs from it; None when this is no checkout or git is not
    there.
    """
    root = Path(__file__).resolve().parents[2]
    if not (
        root / ".git"
    ).exists():  # installed: an outer repository's commit would say nothing about us
        return None
    answers: list[str] = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
        try:
            answer = subprocess.run(
                ["git", "-C", str(root), *command],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        answers.append(answer.stdout.strip())
    return {"commit": answers[0], "dirty": bool(answers[1])}
