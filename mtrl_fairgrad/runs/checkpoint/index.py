"""What a checkpoint's folder must hold: index.json, and the check of files against it.

    {"index": {"format": 2,
               "files": {"agent.safetensors": {"bytes": …, "sha256": …}, "state.json": …},
               "ring": {"shape": [capacity, …], "dtype": "float32", "added": …, "segments":
               [{"start": …, …}]}, "beside": {"evaluations.csv": {"bytes": …, "sha256": …}, …}},
     "sha256": the digest of "index"}

One spelling alone is accepted, so that no flipped byte of the index goes unnoticed either. What it
says has been checked when `read` returns, since whoever forges a checkpoint forges its digests,
too: names lead to no other folder, numbers are no lies about sizes.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtrl_fairgrad.runs.checkpoint.replay_segments import RingRecord
from mtrl_fairgrad.utils.atomic_io import Content, RunFolderError, content_of

NAME = "index.json"
FORMAT = 2
_LARGEST = 2**26
"""Bytes of an index, and of a state.json."""
_FILE = re.compile(r"[\w-]+\.safetensors|state\.json")
_BESIDE = re.compile(r"[\w-][\w.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CheckpointError(RunFolderError):
    """No checkpoint could be written or read."""


@dataclass(frozen=True, slots=True)
class Index:
    """The parts of a checkpoint."""

    files: dict[str, Content]
    """In its folder."""
    ring: RingRecord | None
    """The rows of the replay, in segments that checkpoints share; None without a replay."""
    beside: dict[str, Content]
    """Beginnings of files of the run that only grow."""

    def encode(self) -> bytes:
        """The text of index.json."""
        index = {
            "format": FORMAT,
            "files": {name: asdict(content) for name, content in self.files.items()},
            "ring": None if self.ring is None else asdict(self.ring),
            "beside": {name: asdict(content) for name, content in self.beside.items()},
        }
        return _text({"index": index, "sha256": hashlib.sha256(_text(index)).hexdigest()})

    @classmethod
    def read(cls, folder: Path) -> Index:
        """The index of a checkpoint's folder.

        Raises:
            CheckpointError: it is missing, damaged, of another version, or forged.
        """
        path = folder / NAME
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError
            text = path.read_bytes()
            found = json.loads(text)
            index = found["index"]
            if text != _text(found) or found["sha256"] != hashlib.sha256(_text(index)).hexdigest():
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            if (folder / "checksums.json").is_file():
                raise CheckpointError(
                    f"{folder} was written by an older version of this program"
                ) from None
            raise CheckpointError(f"{path} is missing or damaged") from None
        try:
            if index["format"] != FORMAT:
                raise CheckpointError(f"{folder} was written by another version of this program")
            ring = None if index["ring"] is None else RingRecord.parse(index["ring"])
            return cls(_contents(index["files"], _FILE), ring, _contents(index["beside"], _BESIDE))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path} is not one of ours ({error!r})") from None

    def groups(self) -> list[str]:
        """Names of the groups of tensors."""
        return sorted(
            name.removesuffix(".safetensors") for name in self.files if name != "state.json"
        )

    def check(self, folder: Path, name: str) -> Path:
        """The path of one of the files, which has been read and found sound.

        Raises:
            CheckpointError: naming the file.
        """
        check(folder / name, self.files[name])
        return folder / name

    def check_beside(self, run: Path, name: str) -> None:
        """Find out whether the run's file `name` still begins as it did when the checkpoint was
        made.

        Raises:
            CheckpointError: it does not.
        """
        if name not in self.beside:
            raise CheckpointError(f"{run / name} was missing when the checkpoint was made")
        try:
            same = content_of(run / name, self.beside[name].bytes) == self.beside[name]
        except OSError as error:
            raise CheckpointError(f"{run / name} cannot be read ({error.strerror})") from None
        if not same:
            raise CheckpointError(
                f"{run / name} does not begin as it did when the checkpoint was made"
            )


def check(path: Path, expected: Content) -> None:
    """Read a file and compare.

    Raises:
        CheckpointError: it is not as expected.
    """
    try:
        size = path.stat().st_size
        found = content_of(path) if size == expected.bytes else None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
    if found is None:
        raise CheckpointError(f"{path} is damaged ({size} bytes long, not {expected.bytes})")
    if found != expected:
        raise CheckpointError(f"{path} is damaged (its SHA-256 is not the one in {NAME})")


def _contents(listed: dict[str, Any], allowed: re.Pattern[str]) -> dict[str, Content]:
    found = {
        name: Content(int(each["bytes"]), str(each["sha256"])) for name, each in listed.items()
    }
    for name, content in found.items():
        if (
            not allowed.fullmatch(name)
            or not _SHA256.fullmatch(content.sha256)
            or content.bytes < 0
        ):
            raise ValueError(name)
    if "state.json" in found and found["state.json"].bytes > _LARGEST:
        raise ValueError("state.json")
    return found


def _text(content: object) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
