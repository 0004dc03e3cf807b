"""Memory that this process can still use: the machine's, within the limits of its container."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOUNT = Path("sys/fs/cgroup")


@dataclass(frozen=True)
class _Version:
    """Files of one version of Linux's control groups."""

    line: str
    """Pattern of the line in /proc/self/cgroup that holds the group's path."""
    mount: Path
    limit: str
    usage: str
    reclaimable: str
    """Entry of `memory.stat`: cached files that the system drops when memory runs out."""


_VERSIONS = (
    _Version(r"^0::(/.*)$", _MOUNT, "memory.max", "memory.current", "inactive_file"),
    _Version(
        r"^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(/.*)$",
        _MOUNT / "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that can be used without swapping; None if the system does not tell.

    Elsewhere than on Linux this is the machine's whole memory.

    Args:
        root: the folder that holds `proc` and `sys`, for tests.
    """
    found = [*_available(root), *(room for version in _VERSIONS for room in _rooms(root, version))]
    if found:
        return max(min(found), 0)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _available(root: Path) -> list[int]:
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    return [1024 * int(match[1])] if match else []


def _rooms(root: Path, version: _Version) -> Iterator[int]:
    """Yield what is left below the limit of this process's group and of each group around it."""
    match = re.search(version.line, _read(root / "proc/self/cgroup"), re.MULTILINE)
    if match is None:
        return
    path = root / version.mount
    # In a container the path may be the host's; the container's group is then the mount itself.
    groups = [path]
    for name in Path(match[1]).parts[1:]:
        groups.append(groups[-1] / name)
    for group in groups:
        limit, usage = (_read(group / name).strip() for name in (version.limit, version.usage))
        if limit.isdecimal() and usage.isdecimal():
            cached = re.search(
                rf"^{version.reclaimable} (\d+)$", _read(group / "memory.stat"), re.MULTILINE
            )
            yield int(limit) - int(usage) + (int(cached[1]) if cached else 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
