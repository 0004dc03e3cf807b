"""The resumes of a run, resumes.jsonl: where each began, and the versions and machine it ran on.

A line holds one resume as JSON. Lines are only added, so that checkpoints cover them; a run that
was never resumed has no such file, since its manifest says the same of its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from mtrl_fairgrad.runs.manifest import Provenance
from mtrl_fairgrad.utils.atomic_io import RunFolderError, write_atomic
from mtrl_fairgrad.utils.file_schema import Count, check_schema
from mtrl_fairgrad.utils.safe_files import is_present, read_lines

NAME = "resumes.jsonl"
MAX_BYTES = 2**24
"""Largest size of the file; a line has about a thousand bytes."""
COMPARED = ("versions", "git", "platform", "processor", "device", "accelerator", "execution")
"""Entries of a resume, and of a manifest, that numbers depend on."""


class Resume(Provenance, total=False):
    """A line of the file; versions to come may leave something out."""

    env_steps: Count
    """Where an agent's training goes on."""
    steps: Count
    """Length of the agent's run from now on."""
    epochs: Count
    """Where a supervised fit goes on."""


def add_resume(folder: Path, provenance: Mapping[str, Any], **counters: int) -> None:
    """Add a resume durably.

    Args:
        folder: run folder.
        provenance: what `mtrl_fairgrad.runs.manifest.provenance` returned, and the execution.
        counters: those of `Resume`.
    """
    line = json.dumps({**provenance, **counters}).encode() + b"\n"
    write_atomic(folder / NAME, b"".join([*_lines(folder), line]))


def read_resumes(folder: Path) -> list[Resume]:
    """Read all resumes, in order.

    Raises:
        RunFolderError: the file is damaged.
    """
    resumes: list[Resume] = []
    for number, line in enumerate(_lines(folder), start=1):
        try:
            resume = json.loads(line)
            check_schema(resume, Resume)
        except (ValueError, RecursionError) as error:
            raise RunFolderError(
                f"line {number} of {folder / NAME} is damaged ({error}): restore the file from a "
                "copy."
            ) from None
        resumes.append(cast(Resume, resume))
    return resumes


def describe_changes(manifest: Mapping[str, Any], resumes: Sequence[Resume]) -> list[str]:
    """Say which numbers were made by which versions and machine, if not all by the manifest's."""
    records = [manifest, *(cast("Mapping[str, Any]", resume) for resume in resumes)]
    sentences: list[str] = []
    for before, after in pairwise(records):
        changes = [
            f"{name} {new}, before {old}"
            for key in COMPARED
            if key in before and key in after
            for name, old, new in _differences(key, before[key], after[key])
        ]
        if changes:
            key = "epochs" if "epochs" in after else "env_steps"
            sentences.append(
                f"numbers after {key} {after.get(key, 0)} were made with {'; '.join(changes)}"
            )
    return sentences


def _differences(key: str, old: Any, new: Any) -> Iterator[tuple[str, object, object]]:
    """Yield the name and both values of what differs, entry by entry of a mapping."""
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                yield name, before.get(name, "none"), after.get(name, "none")
    elif old != new:
        yield key, old, new


def _lines(folder: Path) -> list[bytes]:
    if not is_present(folder / NAME):
        return []
    return [line for _, line in read_lines(folder / NAME, MAX_BYTES)]
