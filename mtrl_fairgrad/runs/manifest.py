"""The manifest of a run: versions, code, machine and protocol that its numbers depend on."""

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
from typing import Any, TypedDict

from mtrl_fairgrad.utils.device import accelerator_name
from mtrl_fairgrad.utils.safe_load import read_mapping

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


class Git(TypedDict):
    """The checkout that a run used."""

    commit: str
    dirty: bool


class Provenance(TypedDict, total=False):
    """Versions, code and machine of a process; older versions recorded less."""

    started: str
    versions: dict[str, str]
    git: Git | None
    platform: str
    processor: str
    cpus: int | None
    device: str
    accelerator: str | None
    execution: dict[str, Any]


class Manifest(Provenance, total=False):
    """What a manifest.json may hold; folders of older versions, and published ones, lack parts."""

    kind: str
    overrides: list[str]
    protocol: dict[str, Any]
    methods: dict[str, str]
    steps: int
    config_sha256: str


def manifest(
    overrides: Sequence[str], device: str, protocol: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Describe versions, code, machine and protocol, without hosts, users and home folders.

    Args:
        overrides: the command line.
        device: the learner's device, such as `cpu`.
        protocol: how success is measured, in any form; runs of different protocols are never
            averaged.
    """
    home = re.compile(rf"{re.escape(str(Path.home()))}(?=/|$)|/(?:home|Users)/[^/,\s\]'\"]+")
    return {
        **provenance(device),
        "overrides": [home.sub("~", override) for override in overrides],
        "protocol": dict(protocol or {}),
    }


def provenance(device: str) -> dict[str, Any]:
    """Describe versions, code and machine of this process, and when it began, as `Provenance`.

    `device` is that of the learner, such as `cpu`.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "git": _git(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "device": device,
        "accelerator": accelerator_name(device),
    }


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hash a configuration without `steps`, the only value of config.yaml that may change."""
    fixed = {key: value for key, value in config.items() if key != "steps"}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def run_id(folder: Path) -> str:
    """Return what tells a run apart from all others, resumed ones included, as 16 hex digits.

    Raises:
        OSError, ValueError: its manifest.json cannot be read.
    """
    content = read_mapping(folder / "manifest.json")
    known = [content.get("started"), content.get("config_sha256")]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def _processor() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        if model := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
            return model[1]
    return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """Return the checkout's commit and whether files differ from it; None without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None  # installed: an enclosing repository's commit is not this package's
    outputs: list[str] = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
        try:
            result = subprocess.run(
                ["git", "-C", str(root), *command],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        outputs.append(result.stdout.strip())
    return {"commit": outputs[0], "dirty": bool(outputs[1])}
