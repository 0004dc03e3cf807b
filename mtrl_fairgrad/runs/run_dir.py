"""A run's folder: what was asked, what was measured, and the checkpoints to go on from.

    config.yaml                 the composed configuration
    manifest.json               versions, commit, machine, evaluation protocol, the configuration's
    SHA-256 evaluations.csv             one row per (env_steps, seed, task)
    incidents.csv               see `mtrl_fairgrad.runs.fault_log`
    events.out.tfevents.*       what training logged, for TensorBoard
    checkpoints/                see `mtrl_fairgrad.runs.checkpoint.store`
    run.lock                    held by the process that trains here

Nothing is pickled, so reading a folder runs no code. A killed process leaves the old state or the
new one, never a mixture: files appear by rename after an fsync. Reading changes nothing; writers
hold `lock()`. Mistakes and damage raise `RunFolderError`, a `ValueError`, with one sentence.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mtrl_fairgrad.runs.checkpoint.replay_segments import Ring
from mtrl_fairgrad.runs.checkpoint.store import Checkpoint, CheckpointError, CheckpointStore
from mtrl_fairgrad.runs.manifest import config_sha256
from mtrl_fairgrad.utils.atomic_io import (
    RunFolderError,
    append,
    call,
    cut,
    remove,
    sweep,
    write_atomic,
)
from mtrl_fairgrad.utils.safe_load import read_mapping
from mtrl_fairgrad.utils.text_tables import csv_text

if TYPE_CHECKING:  # torch takes a second to import, and only checkpoints need it
    from torch import Tensor
try:
    import fcntl
except ImportError:  # Windows: runs are not locked there
    fcntl = None

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Evaluation",
    "RunFolder",
    "RunFolderError",
    "write_atomic",
]

PARTS = ("config.yaml", "manifest.json", "evaluations.csv", "checkpoints")
COLUMNS = ("env_steps", "seed", "task", "episodes", "success", "return")
_HEADER = csv_text([COLUMNS]).encode()
_CURVES = "events.out.tfevents.*"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One task of one seed, evaluated after `env_steps` transitions of that task."""

    env_steps: int
    seed: int
    task: str
    episodes: int
    success: float
    """Rate over `episodes`, in [0, 1]."""
    return_: float
    """Mean undiscounted return of an episode."""


class RunFolder:
    """An existing run folder; `create` makes one, `open` finds one."""

    def __init__(self, path: Path, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        self.path, self.config, self.manifest = path, config, manifest
        self._rows = path / "evaluations.csv"
        others = ("manifest.json", _CURVES)
        self.store = CheckpointStore(path, self._rows.name, others, f"continue with resume={path}")

    @classmethod
    def create(
        cls, path: str | Path, config: Mapping[str, Any], manifest: Mapping[str, Any]
    ) -> RunFolder:
        """Begin a run in a new folder, or in one that holds other files but no run; nothing is
        overwritten.

        `config` and `manifest` are of plain values: mappings, sequences, str, int, float, bool,
        None.
        """
        # Through JSON, so that they are now what they will be when read: tuples become lists.
        plain = json.loads(json.dumps(config))
        run = cls(
            Path(path),
            plain,
            {**json.loads(json.dumps(manifest)), "config_sha256": config_sha256(plain)},
        )
        cls.check_vacant(run.path)
        try:
            call(os.makedirs, run.store.path)  # also the claim: of two processes, one fails here
            try:
                write_atomic(run._rows, _HEADER)
                write_atomic(
                    run.path / "manifest.json", json.dumps(run.manifest, indent=2).encode() + b"\n"
                )
                # Last, because a folder with a config.yaml counts as a run.
                write_atomic(
                    run.path / "config.yaml", yaml.safe_dump(run.config, sort_keys=False).encode()
                )
            except OSError:
                for name in PARTS:
                    remove(run.path / name)
                raise
        except OSError as error:
            raise RunFolderError(
                f"run_dir={path} cannot be created ({error.strerror}): choose a folder that you "
                "can write to."
            ) from error
        return run

    @staticmethod
    def check_vacant(path: Path) -> None:
        """Refuse a folder that holds a run already, or that cannot be made."""
        try:
            there = [name for name in PARTS if os.path.lexists(path / name)]
            above = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
            if not above.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
            if not os.access(above, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(above))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise RunFolderError(
                f"run_dir={path} cannot be created ({reason}): choose a folder that you can write "
                "to."
            ) from error
        if there:
            raise RunFolderError(
                f"run_dir={path} already holds a run ({there[0]} is there), and runs are never "
                "overwritten: "
                f"choose another run_dir, or continue that run with resume={path}."
            )

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Read a run's configuration and manifest, to evaluate, to report or, under `lock`, to
        resume.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise RunFolderError(
                f"{path} holds no run (no config.yaml): give the folder that training wrote to."
            )
        return cls(path, _mapping(path / "config.yaml"), _mapping(path / "manifest.json"))

    @property
    def steps(self) -> int:
        """How far the run is to go."""
        steps = self.config.get("steps")
        if not isinstance(steps, int) or steps < 1:
            raise RunFolderError(
                f"{self.path / 'config.yaml'} has steps={steps!r}: restore it from a copy."
            )
        return steps

    def discard(self) -> None:
        """Take back what `create` made, for a run that could not be started; other files stay."""
        with contextlib.suppress(
            OSError
        ):  # the folder is not empty, or nothing can be changed any more
            for name in (*PARTS, "run.lock"):
                remove(self.path / name)
            call(os.rmdir, self.path)

    def extend(self, steps: int) -> None:
        """Have the run's configuration say that it now goes on to `steps`; call under `lock`."""
        self.config["steps"] = steps
        write_atomic(
            self.path / "config.yaml", yaml.safe_dump(self.config, sort_keys=False).encode()
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training here, and sweep away what a killed one left
        half-written.

        The system frees the lock when this process ends, however it ends; forked workers do not
        inherit it.
        """
        try:
            file = call(open, self.path / "run.lock", "a")
        except OSError as error:
            raise RunFolderError(
                f"{self.path} is not writable ({error.strerror}): restore access to it."
            ) from error
        with file:
            _lock(file, self.path)
            try:
                sweep(self.path)
                self.store.sweep()
            except OSError as error:
                raise RunFolderError(
                    f"{error.filename} cannot be removed ({error.strerror}): restore access to "
                    f"{self.path}."
                ) from error
            yield

    # ---- evaluations ----

    def append_evaluation(self, rows: Iterable[Evaluation]) -> None:
        """Append rows durably, all or none: a full disk leaves the file as it was and raises
        OSError.
        """
        block, end = csv_text(astuple(row) for row in rows).encode(), len(self._whole_lines())
        append(
            self._rows, end, block
        )  # what a killed process left of a line goes before new lines come

    def evaluations(self) -> list[Evaluation]:
        """All rows in the order of writing; what a killed process left of a last line is not among
        them.
        """
        header, *lines = self._whole_lines().decode(errors="replace").split("\n")[:-1] or [""]
        if header != ",".join(COLUMNS):
            raise RunFolderError(
                f"{self._rows} does not begin with {','.join(COLUMNS)}: restore it from a copy."
            )
        return [
            _evaluation(line, f"line {n} of {self._rows}") for n, line in enumerate(lines, start=2)
        ]

    def rewind(self, saved: Checkpoint | None) -> None:
        """Have evaluations and curves be what they were when a checkpoint was made, or as yet
        empty; under `lock`.

        A run that goes on from there makes the rest again; interrupted, this may be done again.
        """
        known = {self._rows.name: len(_HEADER)} if saved is None else saved.beside
        cut(self._rows, known[self._rows.name])
        for path in self.path.glob(_CURVES):
            if path.name in known:
                cut(path, known[path.name])
            else:
                remove(path)

    def _whole_lines(self) -> bytes:
        try:
            data = self._rows.read_bytes()
        except OSError as error:
            raise RunFolderError(
                f"{self._rows} cannot be read ({error.strerror}): restore it from a copy."
            ) from error
        return data[: data.rfind(b"\n") + 1]

    # ---- checkpoints ----

    def save_checkpoint(
        self,
        env_steps: int,
        groups: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        keep: int = 2,
        ring: Ring | None = None,
    ) -> Path:
        """See `CheckpointStore.save`."""
        return self.store.save(env_steps, groups, state, keep, ring)

    def resume_checkpoint(
        self,
        like: Mapping[str, Mapping[str, Tensor]],
        ring: Ring | None = None,
        env_steps: int | None = None,
    ) -> Checkpoint:
        """See `CheckpointStore.resume`."""
        return self.store.resume(like, ring, env_steps)

    def checkpoints(self) -> list[Path]:
        """See `CheckpointStore.all`."""
        return self.store.all()

    def has_checkpoint(self) -> bool:
        """Whether there is any, sound or not."""
        return bool(self.store.all())

    def load_checkpoint(
        self, env_steps: int | None = None, groups: Collection[str] | None = None
    ) -> Checkpoint:
        """See `CheckpointStore.load`."""
        return self.store.load(env_steps, groups)


def _evaluation(line: str, place: str) -> Evaluation:
    try:
        [[env_steps, seed, task, episodes, success, return_]] = csv.reader([line])
        row = Evaluation(
            int(env_steps), int(seed), task, int(episodes), float(success), float(return_)
        )
        if not 0 <= row.success <= 1:
            raise ValueError
    except ValueError:
        raise RunFolderError(
            f"{place} is damaged ({line!r}): restore the file from a copy."
        ) from None
    return row


def _mapping(path: Path) -> dict[str, Any]:
    try:
        return read_mapping(path)
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be read ({error.strerror}): restore it from a copy."
        ) from error
    except ValueError as error:
        raise RunFolderError(
            f"{path} is damaged, or not one of ours: restore it from a copy, or give another run."
        ) from error


def _lock(file: io.TextIOWrapper, folder: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(
            f"another process is training in {folder}: wait for its end, stop it, or choose "
            "another run_dir."
        ) from None
    except (
        OSError
    ) as error:  # some cluster file systems have no locks; that must not forbid training
        _log.warning(
            "%s cannot be locked (%s): let only one process train there", folder, error.strerror
        )
