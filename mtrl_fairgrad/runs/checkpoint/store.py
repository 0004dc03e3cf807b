"""Checkpoints of a run: safetensors files, state.json, and index.json with all checksums.

    checkpoints/000000010000/   agent.safetensors …, state.json,
                                index.json (see `mtrl_fairgrad.runs.checkpoint.index`)
    checkpoints/segments/       rows of the replay buffer, shared by the checkpoints
                                (see `mtrl_fairgrad.runs.checkpoint.replay_segments`)

Nothing is pickled, so loading runs no code. A checkpoint is written under a temporary name, synced
and read back; it then appears by rename, and only then are older ones removed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_fairgrad.runs.checkpoint.index import LARGEST, NAME, CheckpointError, Index, check_size
from mtrl_fairgrad.runs.checkpoint.replay_segments import (
    SMALL,
    Ring,
    RingRecord,
    load_rows,
    save_rows,
)
from mtrl_fairgrad.runs.checkpoint.tensors import Groups, encode, mismatch, read
from mtrl_fairgrad.utils.atomic_io import (
    RunFolderError,
    content_of,
    is_fault,
    make_folder,
    read_back,
    reading_errors,
    remedy,
    remove,
    remove_temporaries,
    rename,
    sync,
    temporary,
    write,
)
from mtrl_fairgrad.utils.clean_text import clean
from mtrl_fairgrad.utils.safe_files import entries

if TYPE_CHECKING:  # torch takes a second to import, and reports do not need it
    from torch import Tensor

__all__ = ["Checkpoint", "CheckpointError", "CheckpointStore", "steps_of"]

_NAME = re.compile(r"(\d{12,})(?:-(\d+))?")  # env_steps and attempt
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint; tensors are on the CPU and share no memory."""

    env_steps: int
    groups: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    run_file_sizes: dict[str, int]
    """Bytes that the store's `history` and `run_files` had when it was made, by file name."""


class CheckpointStore:
    """The checkpoints of a run.

    Args:
        run: existing run folder.
        history: a growing file of the run; resuming requires that it begins as the checkpoint
            recorded.
        run_files: patterns of other files that only grow; recorded for `mtrl_fairgrad.verify`.
        retry: how to continue after a failed write, for messages.
        without: returns what can be done without an intact checkpoint, for messages.
    """

    small = SMALL
    """See `mtrl_fairgrad.runs.checkpoint.replay_segments.SMALL`."""

    def __init__(
        self,
        run: Path,
        history: str | None = None,
        run_files: Collection[str] = (),
        retry: str = "give the command again",
        without: Callable[[], str] = lambda: "start a new run",
    ) -> None:
        self.run = run
        self.path = run / "checkpoints"
        self.segments = self.path / "segments"
        self._run_files = ([history] if history else []) + list(run_files)
        self._history = history
        self._retry = retry
        self._without = without
        self._current: Path | None = None
        """The checkpoint that this process resumed from or saved last; newer ones are abandoned."""
        self._current_ring: RingRecord | None = None

    # ---- writing ----

    def save(
        self,
        env_steps: int,
        groups: Groups,
        state: Mapping[str, Any],
        keep: int = 2,
        ring: Ring | None = None,
    ) -> Path:
        """Write a checkpoint durably, then remove all but the newest `keep` ≥ 1, this one included.

        Tensors may have any dtype, device and strides; aliases are stored apart. `state` must be
        plain JSON. Of the `ring` only new rows are written. Checkpoints newer than the one that
        this process resumed from are abandoned and removed.

        Raises:
            CheckpointError: writing failed; the message names the newest checkpoint.
        """
        text = json.dumps(state).encode()
        _check_readable("state.json", text, env_steps)
        existing = self.all()
        current = _order(self._current) if self._current else (math.inf,)
        newest = min((env_steps, math.inf), current)
        earlier = [path for path in existing if _order(path) <= newest]
        # An earlier attempt at this step stays until this one is complete.
        attempts = [_order(path)[1] for path in existing if _order(path)[0] == env_steps]
        attempt = max(attempts, default=-1) + 1
        target = self.path / f"{env_steps:012d}{f'-{attempt}' if attempt else ''}"
        partial = temporary(target)
        try:
            # Never the run's own folder, which may have vanished.
            for folder in (self.path, self.segments, partial):
                make_folder(folder, self.run)
            saved_ring = self._fill(partial, env_steps, groups, text, ring)
            self._discard(set(existing) - set(earlier))
            rename(partial, target, self.run)
            sync(self.path, self.run)
            self._current = target
            self._current_ring = saved_ring
            self._discard(earlier[max(keep, 1) - 1 :])
            self._remove_unused_segments()
        except (OSError, RunFolderError) as error:
            with contextlib.suppress(OSError, RunFolderError):
                self.clean()
            if isinstance(error, OSError):
                raise CheckpointError(self.refusal(str(target), error)) from error
            raise  # a link is in the way, or what was written cannot be read again
        return target

    def _fill(
        self, folder: Path, env_steps: int, groups: Groups, state: bytes, ring: Ring | None
    ) -> RingRecord | None:
        record = None
        if ring is not None:
            record = save_rows(self.segments, ring, self._current_ring, self.small, self.run)
        files = {
            f"{name}.safetensors": write(folder / f"{name}.safetensors", [encode(group)], self.run)
            for name, group in groups.items()
        }
        files["state.json"] = write(folder / "state.json", [state], self.run)
        run_files = {
            path.name: content_of(path)
            for pattern in self._run_files
            for path in entries(self.run, pattern)
        }
        index = Index(files, record, run_files).encode()
        _check_readable(NAME, index, env_steps)
        for name, content in {**files, NAME: write(folder / NAME, [index], self.run)}.items():
            read_back(folder / name, content, self.run)
        read(folder, Index.read(folder), groups=())
        sync(folder, self.run)
        return record

    def _discard(self, checkpoints: Iterable[Path]) -> None:
        for path in checkpoints:
            # Renamed first, so that a partly removed folder never looks like a checkpoint.
            discarded = temporary(path)
            rename(path, discarded, self.run)
            remove(discarded, self.run)

    def clean(self) -> None:
        """Remove partial files of a killed process; OSError when one cannot be removed."""
        for folder in (self.path, self.segments):
            remove_temporaries(folder, self.run)
        self._remove_unused_segments()

    def _remove_unused_segments(self) -> None:
        """Remove segments that no checkpoint uses; none if an index cannot be read."""
        try:
            records = [Index.read(path).ring for path in self.all()]
        except CheckpointError:
            return
        used = {segment.name for record in records if record for segment in record.segments}
        for path in entries(self.segments, "*.rows", self.run):
            if path.name not in used:
                remove(path, self.run)

    def refusal(self, what: str, error: OSError) -> str:
        """Return the message for a failed write: cause, newest checkpoint, and how to continue."""
        reason = f"{what} could not be written ({error.strerror or error})"
        if not self.run.is_dir():
            return f"{reason}, because {self.run} is missing: restore it, then {self._retry}."
        newest = self.all()[:1]
        safe = (
            f"the checkpoint at env_steps={steps_of(newest[0])} is safe"
            if newest
            else "there is no checkpoint yet"
        )
        return f"{reason}, {safe}: {remedy(error)}, then {self._retry}."

    # ---- reading ----

    def all(self) -> list[Path]:
        """List the folders of complete checkpoints, newest first; only loading verifies them.

        Raises:
            RunFolderError: the folder of the checkpoints is a link, or cannot be read.
        """
        with reading_errors(self.path):
            found = entries(self.path, root=self.run)
        paths = (path for path in found if _NAME.fullmatch(path.name))
        return sorted(paths, key=_order, reverse=True)

    def check_any_complete(self) -> None:
        """Check that a checkpoint has all its files with the right sizes, if not their content.

        This takes no time even where a checkpoint has many gigabytes.

        Raises:
            CheckpointError: every checkpoint is damaged.
        """
        error: CheckpointError | None = None
        for path in self.all():
            try:
                self._check_sizes(path)
                return
            except CheckpointError as damage:
                error = error or damage
        raise self._none_intact(error) from (error and error.__cause__)

    def _check_sizes(self, path: Path) -> None:
        index = Index.read(path)
        files = {path / name: content for name, content in index.files.items()}
        if index.ring is not None:
            files |= {
                self.segments / segment.name: index.ring.content(segment)
                for segment in index.ring.segments
            }
        for file, content in files.items():
            check_size(file, content, self.run)

    def _none_intact(self, error: CheckpointError | None) -> CheckpointError:
        if error is None:
            return CheckpointError(f"{self.run} has no checkpoint: {self._without()}.")
        cause = error.__cause__
        fix = remedy(cause) if isinstance(cause, OSError) and is_fault(cause) else self._without()
        return CheckpointError(f"{str(error).rstrip('.')}, and no other is left: {fix}.")

    def load(
        self, env_steps: int | None = None, groups: Collection[str] | None = None
    ) -> Checkpoint:
        """Read the newest intact checkpoint, or the one at `env_steps`; all groups, or `groups`.

        Checksums are verified first. A damaged checkpoint is reported as a warning, and the one
        before it is used.

        Raises:
            CheckpointError: there is no intact checkpoint.
        """
        return self._newest_intact(env_steps, lambda path: _read(path, Index.read(path), groups))

    def resume(
        self,
        like: Groups,
        ring: Ring | None = None,
        env_steps: int | None = None,
        extra_bytes: int = 0,
    ) -> Checkpoint:
        """Read the newest intact checkpoint, or the one at `env_steps`, to continue from it.

        Args:
            like: the expected tensors; compared with the files' headers before anything is read.
                Checkpoints may hold more (optimisers have no moments before their first step).
            ring: the replay buffer to fill, if given.
            env_steps: which checkpoint; None for the newest.
            extra_bytes: bytes that other tensors may take.

        Raises:
            CheckpointError: there is no intact checkpoint.
            RunFolderError: the checkpoint is of another configuration.
        """
        return self._newest_intact(
            env_steps, lambda path: self._resume(path, like, ring, extra_bytes)
        )

    def _resume(self, path: Path, like: Groups, ring: Ring | None, extra_bytes: int) -> Checkpoint:
        index = Index.read(path)
        checkpoint = _read(path, index, like=like, extra_bytes=extra_bytes)
        if self._history is not None:
            index.check_run_file(self.run, self._history)
        if ring is not None:
            if index.ring is None or not index.ring.fits(ring):
                raise mismatch(path, "its replay buffer has another shape")
            try:
                load_rows(self.segments, index.ring, ring, self.run)
            except RunFolderError as error:
                raise CheckpointError(str(error)) from error.__cause__
        self._current = path
        self._current_ring = index.ring
        return checkpoint

    def _newest_intact(
        self, env_steps: int | None, read: Callable[[Path], Checkpoint]
    ) -> Checkpoint:
        damage: dict[Path, CheckpointError] = {}
        # Listed anew each time: a training process may replace checkpoints meanwhile.
        while candidates := [
            path
            for path in self.all()
            if path not in damage and env_steps in (None, steps_of(path))
        ]:
            try:
                checkpoint = read(candidates[0])
            except CheckpointError as error:
                damage[candidates[0]] = error
                continue
            for path, error in damage.items():
                _log.warning(
                    "%s; going back %d steps, to the checkpoint at env_steps=%d",
                    clean(str(error).rstrip(".")),
                    steps_of(path) - checkpoint.env_steps,
                    checkpoint.env_steps,
                )
            return checkpoint
        for error in damage.values():
            raise self._none_intact(error) from error.__cause__
        existing = ", ".join(str(steps_of(path)) for path in self.all())
        if not existing:
            raise self._none_intact(None)
        raise CheckpointError(
            f"{self.run} has no checkpoint at env_steps={env_steps}: choose from {existing}."
        )


def steps_of(checkpoint: Path) -> int:
    """Return the env_steps in a checkpoint's name."""
    return _order(checkpoint)[0]


def _order(checkpoint: Path) -> tuple[int, int]:
    """Return the env_steps and the attempt in a checkpoint's name."""
    steps, _, attempt = checkpoint.name.partition("-")
    return int(steps), int(attempt or 0)


def _read(
    path: Path,
    index: Index,
    groups: Collection[str] | None = None,
    like: Groups | None = None,
    extra_bytes: int = 0,
) -> Checkpoint:
    sizes = {name: content.bytes for name, content in index.run_files.items()}
    return Checkpoint(steps_of(path), *read(path, index, groups, like, extra_bytes), sizes)


def _check_readable(name: str, data: bytes, env_steps: int) -> None:
    """Raise CheckpointError for a file that the reader would refuse."""
    if len(data) > LARGEST:
        raise CheckpointError(
            f"the checkpoint at env_steps={env_steps} is not written, because its {name} would "
            f"have {len(data):,} bytes and at most {LARGEST:,} can be read again: train fewer "
            "tasks, seeds or copies in one run."
        )
