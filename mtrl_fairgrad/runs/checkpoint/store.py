"""Checkpoints of a run: a safetensors file per group of tensors, state.json, and index.json with
everything's SHA-256.

    checkpoints/000000010000/   agent.safetensors …, state.json, index.json (see
    `mtrl_fairgrad.runs.checkpoint.index`) checkpoints/segments/       the replay's rows, shared by
    the checkpoints (see `mtrl_fairgrad.runs.checkpoint.replay_segments`)

Nothing is pickled, so loading runs no code. A checkpoint is written beside its place, synced and
read back; then it appears, whole, by rename, and only then do older ones go.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_fairgrad.runs.checkpoint.index import NAME, CheckpointError, Index
from mtrl_fairgrad.runs.checkpoint.replay_segments import (
    SMALL,
    Ring,
    RingRecord,
    load_rows,
    save_rows,
)
from mtrl_fairgrad.runs.checkpoint.tensors import Groups, encoded, misfit, read
from mtrl_fairgrad.utils.atomic_io import (
    Content,
    RunFolderError,
    beside,
    content_of,
    make_folder,
    read_back,
    remedy,
    remove,
    rename,
    sweep,
    sync,
    write,
)

if TYPE_CHECKING:  # torch takes a second to import, and a report does without
    from torch import Tensor

__all__ = ["Checkpoint", "CheckpointError", "CheckpointStore", "steps_of"]

_NAME = re.compile(r"(\d{12,})(?:-(\d+))?")  # env_steps, and which attempt at them
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `CheckpointStore.save` was given; tensors on the CPU, in memory of their own."""

    env_steps: int
    groups: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    beside: dict[str, int]
    """Bytes that the store's `history` and `others` had then."""


class CheckpointStore:
    """The checkpoints of the run in folder `run`.

    Args:
        run: its folder, which exists.
        history: a file of the run that only grows; a run goes on only from a checkpoint that knew
            its beginning.
        others: patterns of further files that do not change, or only grow; kept in mind for
            `mtrl_fairgrad.verify`.
        again: how to go on after a refusal of the disk, in words.
    """

    small = SMALL
    """See `mtrl_fairgrad.runs.checkpoint.replay_segments.SMALL`."""

    def __init__(
        self,
        run: Path,
        history: str | None = None,
        others: Collection[str] = (),
        again: str = "give the command again",
    ) -> None:
        self.run, self.path = run, run / "checkpoints"
        self.segments = self.path / "segments"
        self._history, self._others, self._again = history, others, again
        self._from: Path | None = None
        """The checkpoint that this process loaded to go on from, or saved last: what is newer was
        given up.
        """
        self._saved: RingRecord | None = None
        """What of the ring it holds."""

    # ---- writing ----

    def save(
        self,
        env_steps: int,
        groups: Groups,
        state: Mapping[str, Any],
        keep: int = 2,
        ring: Ring | None = None,
    ) -> Path:
        """Write a checkpoint durably and, only then, remove all but the newest `keep` ≥ 1, this one
        included.

        Tensors may have any dtype, device and strides; aliases are stored apart. `state` must be
        plain JSON. Of the `ring` only what is new is written. Checkpoints of a course that was
        given up, since this process went on from an older one, go, too.

        Raises:
            CheckpointError: the disk refused; the message says which checkpoint stands.
        """
        text, before = json.dumps(state).encode(), self.all()
        course = min((env_steps, math.inf), _order(self._from) if self._from else (math.inf,))
        earlier = [path for path in before if _order(path) <= course]
        # Beside an earlier attempt at this step, never in its place: for a moment there would be
        # neither.
        attempt = max(
            (_order(path)[1] + 1 for path in before if _order(path)[0] == env_steps), default=0
        )
        target = self.path / f"{env_steps:012d}{f'-{attempt}' if attempt else ''}"
        partial = beside(target)
        try:
            for folder in (
                self.path,
                self.segments,
            ):  # never the run's own folder, which may have vanished
                make_folder(folder)
            make_folder(partial)
            saved = self._fill(partial, groups, text, ring)
            _discard(set(before) - set(earlier))
            rename(partial, target)
            sync(self.path)
            self._from, self._saved = target, saved
            _discard(earlier[max(keep, 1) - 1 :])
            self._free()
        except OSError as error:
            with contextlib.suppress(OSError):
                self.sweep()
            raise CheckpointError(self.refusal(str(target), error)) from error
        return target

    def _fill(
        self, folder: Path, groups: Groups, state: bytes, ring: Ring | None
    ) -> RingRecord | None:
        saved = None if ring is None else save_rows(self.segments, ring, self._saved, self.small)
        files = {}
        for name, group in groups.items():
            files[f"{name}.safetensors"] = write(folder / f"{name}.safetensors", [encoded(group)])
        files["state.json"] = write(folder / "state.json", [state])
        index = Index(files, saved, dict(self._beside())).encode()
        for name, content in {**files, NAME: write(folder / NAME, [index])}.items():
            read_back(folder / name, content)
        sync(folder)
        return saved

    def _beside(self) -> Iterator[tuple[str, Content]]:
        for pattern in ([self._history] if self._history else []) + list(self._others):
            for path in sorted(self.run.glob(pattern)):
                yield path.name, content_of(path)

    def sweep(self) -> None:
        """Remove what a process that was killed, or had no room, left half-written. OSError where
        that is refused.
        """
        for folder in (self.path, self.segments):
            sweep(folder)
        self._free()

    def _free(self) -> None:
        """Remove the segments that no checkpoint needs; none as long as that is unknown."""
        try:
            records = [Index.read(path).ring for path in self.all()]
        except CheckpointError:
            return
        needed = {segment.name for record in records if record for segment in record.segments}
        for path in self.segments.glob("*.rows"):
            if path.name not in needed:
                remove(path)

    def refusal(self, what: str, error: OSError) -> str:
        """One sentence for a run that the disk has stopped: what is safe, and how to go on."""
        reason = f"{what} could not be written ({error.strerror or error})"
        if not self.run.is_dir():
            return f"{reason}, for {self.run} has vanished: put it back, then {self._again}."
        newest = self.all()[:1]
        safe = (
            f"the checkpoint at env_steps={steps_of(newest[0])} is safe"
            if newest
            else "there is no checkpoint yet"
        )
        return f"{reason}, {safe}: {remedy(error)}, then {self._again}."

    # ---- reading ----

    def all(self) -> list[Path]:
        """Folders of the complete checkpoints, newest first; only loading tells whether they are
        sound.
        """
        found = (path for path in self.path.glob("*") if _NAME.fullmatch(path.name))
        return sorted(found, key=_order, reverse=True)

    def load(
        self, env_steps: int | None = None, groups: Collection[str] | None = None
    ) -> Checkpoint:
        """Read, to look at it, the newest sound checkpoint, or the one at `env_steps`; only the
        `groups` named, if any.

        A damaged one is reported as a warning and the one before it used. What is read is checked
        against its SHA-256 first.

        Raises:
            CheckpointError: none is there, or none is sound.
        """
        return self._first_sound(env_steps, lambda path: _read(path, Index.read(path), groups))

    def resume(
        self, like: Groups, ring: Ring | None = None, env_steps: int | None = None
    ) -> Checkpoint:
        """Read the newest sound checkpoint, or the one at `env_steps`, to go on from it.

        Args:
            like: tensors as they must be; compared with what the files' headers say before anything
                is read. Groups and tensors beyond those may be there (optimisers have no moments
                before their first step).
            ring: filled with the rows, if given.
            env_steps: where to go on.

        Raises:
            CheckpointError: none is there, or none is sound.
            RunFolderError: it is one of another configuration.
        """
        return self._first_sound(env_steps, lambda path: self._resume(path, like, ring))

    def _resume(self, path: Path, like: Groups, ring: Ring | None) -> Checkpoint:
        index = Index.read(path)
        found = _read(path, index, like=like)
        if self._history is not None:
            index.check_beside(self.run, self._history)
        if ring is not None:
            if index.ring is None or not index.ring.fit(ring):
                raise misfit(path, "its replay is of another shape")
            try:
                load_rows(self.segments, index.ring, ring)
            except RunFolderError as error:
                raise CheckpointError(str(error)) from None
        self._from, self._saved = path, index.ring
        return found

    def _first_sound(self, env_steps: int | None, read: Callable[[Path], Checkpoint]) -> Checkpoint:
        damage: dict[Path, CheckpointError] = {}
        # Listed anew each time: a training process may replace checkpoints while another one
        # evaluates them.
        while left := [
            path
            for path in self.all()
            if path not in damage and env_steps in (None, steps_of(path))
        ]:
            try:
                found = read(left[0])
            except CheckpointError as error:
                damage[left[0]] = error
                continue
            for path, error in damage.items():
                lost = steps_of(path) - found.env_steps
                _log.warning(
                    "%s; going back %d steps, to the checkpoint at env_steps=%d",
                    error,
                    lost,
                    found.env_steps,
                )
            return found
        for error in damage.values():
            raise CheckpointError(
                f"{error}, and no other is left: restore it from a copy, or start a new run."
            )
        held = ", ".join(str(steps_of(path)) for path in self.all())
        if not held:
            raise CheckpointError(f"{self.run} ended before its first checkpoint: start a new run.")
        raise CheckpointError(
            f"{self.run} has no checkpoint at env_steps={env_steps}: choose from {held}."
        )


def steps_of(checkpoint: Path) -> int:
    """The env_steps that a checkpoint's name tells."""
    return _order(checkpoint)[0]


def _order(checkpoint: Path) -> tuple[int, int]:
    """The env_steps and the attempt that a checkpoint's name tells."""
    steps, _, attempt = checkpoint.name.partition("-")
    return int(steps), int(attempt or 0)


def _read(
    path: Path, index: Index, groups: Collection[str] | None = None, like: Groups | None = None
) -> Checkpoint:
    sizes = {name: content.bytes for name, content in index.beside.items()}
    return Checkpoint(steps_of(path), *read(path, index, groups, like), sizes)


def _discard(checkpoints: Iterable[Path]) -> None:
    for path in checkpoints:
        rename(path, beside(path))  # so that nothing half-removed ever looks like a checkpoint
        remove(beside(path))
