"""The index of a checkpoint, index.json, and the check of files against it.

    {"index": {"format": 2,
               "files": {"agent.safetensors": {"bytes": …, "sha256": …}, "state.json": …},
               "ring": {"shape": [capacity, …], "dtype": "float32", "added": …,
                        "segments": [{"start": …, …}]},
               "beside": {"evaluations.csv": {"bytes": …, "sha256": …}, …}},
     "sha256": the digest of "index"}

Only one formatting is accepted, so that a changed byte of the index itself is detected, too.
`Index.read` validates all content, since a forged checkpoint has forged checksums: names cannot
refer to other folders, and sizes are bounded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from mtrl_fairgrad.runs.checkpoint.replay_segments import RingRecord
from mtrl_fairgrad.utils.atomic_io import Content, RunFolderError, content_of, is_fault, prefix_of
from mtrl_fairgrad.utils.file_schema import Count, check_schema
from mtrl_fairgrad.utils.safe_files import is_present, read_bytes, size_of

NAME = "index.json"
FORMAT = 2
LARGEST = 2**26
"""Upper bound of the bytes of an index.json or state.json."""
_FILE = re.compile(r"[\w-]+\.safetensors|state\.json")
_RUN_FILE = re.compile(r"[\w-][\w.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CheckpointError(RunFolderError):
    """A checkpoint could not be written or read."""


class _Content(TypedDict):
    bytes: Count
    sha256: str


class _Index(TypedDict):
    files: dict[str, _Content]
    ring: dict[str, Any] | None
    beside: dict[str, _Content]


@dataclass(frozen=True, slots=True)
class Index:
    """The files of a checkpoint with their checksums."""

    files: dict[str, Content]
    """Size and checksum of the files in its folder, by name."""
    ring: RingRecord | None
    """Rows of the replay, in segments that checkpoints share; None without a replay."""
    run_files: dict[str, Content]
    """Size and checksum of growing files of the run folder (`beside` in index.json)."""

    def encode(self) -> bytes:
        """Return the content of index.json."""
        index = {
            "format": FORMAT,
            "files": {name: asdict(content) for name, content in self.files.items()},
            "ring": None if self.ring is None else asdict(self.ring),
            "beside": {name: asdict(content) for name, content in self.run_files.items()},
        }
        return _text({"index": index, "sha256": hashlib.sha256(_text(index)).hexdigest()})

    @classmethod
    def read(cls, folder: Path) -> Index:
        """Read and validate the index in a checkpoint's folder.

        Raises:
            CheckpointError: it is missing, damaged, of another version, or invalid.
        """
        path = folder / NAME
        try:
            text = read_bytes(path, LARGEST, run_of(folder))
            signed = json.loads(text)
            index = signed["index"]
            digest = hashlib.sha256(_text(index)).hexdigest()
            if text != _text(signed) or signed["sha256"] != digest:
                raise ValueError
        except RunFolderError as error:
            raise CheckpointError(str(error)) from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if is_present(folder / "checksums.json"):
                raise CheckpointError(
                    f"{folder} was written by an older version of mtrl-fairgrad"
                ) from None
            if isinstance(error, OSError) and is_fault(error):
                raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
            raise CheckpointError(f"{path} is missing or damaged") from None
        try:
            if index["format"] != FORMAT:
                raise CheckpointError(f"{folder} was written by another version of mtrl-fairgrad")
            check_schema(index, _Index)
            ring = None if index["ring"] is None else RingRecord.parse(index["ring"])
            run_files = _contents(index["beside"], _RUN_FILE)
            return cls(_contents(index["files"], _FILE), ring, run_files)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path} is invalid ({error})") from None

    def groups(self) -> list[str]:
        """Sorted names of the groups of tensors."""
        return sorted(
            name.removesuffix(".safetensors") for name in self.files if name != "state.json"
        )

    def check(self, folder: Path, name: str) -> Path:
        """Verify the checksum of the file `name` and return its path.

        Raises:
            CheckpointError: the file is damaged or missing.
        """
        check_file(folder / name, self.files[name], run_of(folder))
        return folder / name

    def check_run_file(self, run: Path, name: str) -> None:
        """Verify that the run's file `name` still begins as when the checkpoint was made.

        Raises:
            CheckpointError: the beginning differs, or the file was missing then.
        """
        if name not in self.run_files:
            raise CheckpointError(f"{run / name} was missing when the checkpoint was made")
        expected = self.run_files[name]
        with _as_checkpoint_errors(run / name):
            same = prefix_of(run / name, expected.bytes) == expected
        if not same:
            raise CheckpointError(
                f"{run / name} does not begin as it did when the checkpoint was made"
            )


def run_of(checkpoint: Path) -> Path:
    """Return the run folder of a checkpoint's folder, `RUN/checkpoints/<name>`."""
    return checkpoint.parent.parent


def check_size(path: Path, expected: Content, root: Path | None = None) -> None:
    """Verify the size of a file.

    Raises:
        CheckpointError: it differs, or the file is missing or not a regular one.
    """
    with _as_checkpoint_errors(path):
        size = size_of(path, root)
    if size != expected.bytes:
        raise CheckpointError(f"{path} is damaged ({size} bytes long, not {expected.bytes})")


def check_file(path: Path, expected: Content, root: Path | None = None) -> None:
    """Verify size and checksum of a file.

    Raises:
        CheckpointError: they differ, or the file cannot be read.
    """
    check_size(path, expected, root)
    with _as_checkpoint_errors(path):
        content = content_of(path, root=root)
    if content != expected:
        raise CheckpointError(f"{path} is damaged (SHA-256 mismatch)")


@contextmanager
def _as_checkpoint_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    except RunFolderError as error:
        raise CheckpointError(str(error)) from None


def _contents(listed: dict[str, Any], allowed: re.Pattern[str]) -> dict[str, Content]:
    contents = {name: Content(entry["bytes"], entry["sha256"]) for name, entry in listed.items()}
    for name, content in contents.items():
        if not allowed.fullmatch(name) or not _SHA256.fullmatch(content.sha256):
            raise ValueError(name)
    if "state.json" in contents and contents["state.json"].bytes > LARGEST:
        raise ValueError("state.json")
    return contents


def _text(content: object) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
