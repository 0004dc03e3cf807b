"""Checkpoints of a run: a safetensors file per group, state.json, and the SHA-256 of each in checksums.json.

Nothing is pickled, so loading runs no code. A checkpoint appears whole, by rename after an fsync, and only
then do older ones go.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_fairgrad.durable import RunFolderError, beside, remove, sync

if TYPE_CHECKING:  # torch takes a second to import, and a report does without
    from torch import Tensor

_NAME = re.compile(r"(\d{12,})(?:-(\d+))?")  # env_steps, and which attempt at them
_log = logging.getLogger(__name__)


class CheckpointError(RunFolderError):
    """No checkpoint could be written or read."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `CheckpointStore.save` was given; tensors on the CPU, in memory of their own."""

    env_steps: int
    groups: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of the run in folder `run`."""

    def __init__(self, run: Path) -> None:
        self.run, self.path = run, run / "checkpoints"

    def save(
        self,
        env_steps: int,
        groups: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        keep: int = 1,
    ) -> Path:
        """Write a checkpoint durably and, only then, remove all but the newest `keep` ≥ 1, this one included.

        Tensors may have any dtype, device and strides; aliases are stored apart. `state` must be plain JSON.
        Checkpoints after `env_steps` belong to a course that was given up and go, too.

        Raises:
            CheckpointError: the disk refused; the newest checkpoint up to `env_steps` stands.
        """
        encoded, before = json.dumps(state).encode(), self.all()
        # Beside an earlier attempt at this step, never in its place: for a moment there would be neither.
        attempt = max((_order(path)[1] + 1 for path in before if _order(path)[0] == env_steps), default=0)
        target = self.path / f"{env_steps:012d}{f'-{attempt}' if attempt else ''}"
        partial = beside(target)
        earlier = [path for path in before if _order(path)[0] <= env_steps]
        try:
            remove(partial)
            partial.mkdir(parents=True)
            _write_checkpoint(partial, groups, encoded)
            _discard(set(before) - set(earlier))
            partial.rename(target)
            sync(self.path)
            _discard(earlier[max(keep, 1) - 1 :])
        except OSError as error:
            remove(partial)
            raise CheckpointError(
                f"{target} could not be written ({error}): make room, then continue with resume={self.run}."
            ) from error
        return target

    def all(self) -> list[Path]:
        """Folders of the complete checkpoints, newest first; only loading tells whether they are sound."""
        found = (path for path in self.path.glob("*") if _NAME.fullmatch(path.name))
        return sorted(found, key=_order, reverse=True)

    def load(self, env_steps: int | None = None, groups: Collection[str] | None = None) -> Checkpoint:
        """Read the newest sound checkpoint, or the one at `env_steps`; only some `groups` of it, if named.

        A damaged one is reported as a warning and the one before it used. What is read is checked against its
        SHA-256 first.

        Raises:
            CheckpointError: none is there, or none is sound.
        """
        damage: dict[Path, CheckpointError] = {}
        # Listed anew each time: a training process may replace checkpoints while another one evaluates them.
        while left := [path for path in self.all() if path not in damage and env_steps in (None, _order(path)[0])]:
            try:
                found = _read_checkpoint(left[0], groups)
            except CheckpointError as error:
                damage[left[0]] = error
                continue
            for error in damage.values():
                _log.warning("%s; going back to the checkpoint at env_steps=%d", error, found.env_steps)
            return found
        for error in damage.values():
            raise CheckpointError(f"{error}, and no other is left: restore it from a copy, or start a new run.")
        held = ", ".join(str(_order(path)[0]) for path in self.all())
        if not held:
            raise CheckpointError(f"{self.run} ended before its first checkpoint: start a new run.")
        raise CheckpointError(f"{self.run} has no checkpoint at env_steps={env_steps}: choose from {held}.")


def _discard(checkpoints: Iterable[Path]) -> None:
    for path in checkpoints:
        path.rename(beside(path))  # so that nothing half-removed ever looks like a checkpoint
        remove(beside(path))


def _order(checkpoint: Path) -> tuple[int, int]:
    """The env_steps and the attempt that a checkpoint's name tells."""
    steps, _, attempt = checkpoint.name.partition("-")
    return int(steps), int(attempt or 0)


def _write_checkpoint(folder: Path, groups: Mapping[str, Mapping[str, Tensor]], state: bytes) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for name, group in groups.items():
        seen: set[int] = set()
        stored: dict[str, Tensor] = {}
        for key, tensor in group.items():
            plain = tensor.detach().cpu().contiguous()
            storage = plain.untyped_storage().data_ptr()
            stored[key] = plain.clone() if storage in seen else plain  # safetensors refuses shared memory
            seen.add(storage)
        try:
            save_file(stored, folder / f"{name}.safetensors")
        except SafetensorError as error:  # what its own writing failed with
            raise OSError(str(error)) from error
    (folder / "state.json").write_bytes(state)
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / "checksums.json").write_bytes(_encode(sums))
    for path in [*folder.iterdir(), folder]:
        sync(path)


def _read_checkpoint(folder: Path, groups: Collection[str] | None) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    sums = _checksums(folder)
    stored = {name.removesuffix(".safetensors") for name in sums.keys() - {"state.json"}}
    wanted = sorted(stored if groups is None else groups)
    if not stored.issuperset(wanted):
        raise CheckpointError(f"{folder} holds {', '.join(sorted(stored))} and not all of {', '.join(wanted)}")
    for name in ["state.json", *(f"{group}.safetensors" for group in wanted)]:
        try:
            sound = _sha256(folder / name) == sums[name]
        except OSError as error:
            raise CheckpointError(f"{folder / name} cannot be read ({error.strerror})") from None
        if not sound:
            raise CheckpointError(f"{folder / name} is damaged (its SHA-256 is not the one in checksums.json)")
    try:
        # load_file maps the file: without the copies, a file truncated later would kill this process.
        tensors = {
            group: {key: tensor.clone() for key, tensor in load_file(folder / f"{group}.safetensors").items()}
            for group in wanted
        }
        return Checkpoint(_order(folder)[0], tensors, json.loads((folder / "state.json").read_bytes()))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is not a checkpoint of ours ({error})") from None


def _checksums(folder: Path) -> dict[str, str]:
    index = folder / "checksums.json"
    try:
        text, present = index.read_bytes(), {path.name for path in folder.iterdir()}
        sums = json.loads(text)
        if not isinstance(sums, dict) or text != _encode(sums) or "state.json" not in sums:
            raise ValueError
    except (OSError, ValueError):
        raise CheckpointError(f"{index} is missing or damaged") from None
    if absent := sorted(sums.keys() - present):
        raise CheckpointError(f"{index} lists {absent[0]}, which is missing")
    return sums


def _encode(sums: object) -> bytes:
    """The only spelling of checksums.json that is accepted, so that no flipped byte in it goes unnoticed."""
    return json.dumps(sums, indent=2, sort_keys=True).encode() + b"\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
