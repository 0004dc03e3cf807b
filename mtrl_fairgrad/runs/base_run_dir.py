"""Base class of the run folders of agents and of supervised benchmarks.

    config.yaml      the composed configuration
    manifest.json    versions, commit, machine, the configuration's SHA-256
    checkpoints/     see `mtrl_fairgrad.runs.checkpoint.store`
    run.lock         held by the process that trains here

Nothing is pickled, so reading a folder runs no code. A crash leaves the old state or the new one:
files appear by rename after an fsync. Reading changes nothing; writers hold `lock()`. User errors
and damage raise `RunFolderError`, a `ValueError` of one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import yaml

from mtrl_fairgrad.runs import metrics_log
from mtrl_fairgrad.runs.checkpoint.replay_segments import Ring
from mtrl_fairgrad.runs.checkpoint.store import Checkpoint, CheckpointStore
from mtrl_fairgrad.runs.manifest import Manifest, config_sha256
from mtrl_fairgrad.runs.run_lock import NAME as LOCK
from mtrl_fairgrad.runs.run_lock import RunLock
from mtrl_fairgrad.utils.arguments import command_line, override
from mtrl_fairgrad.utils.atomic_io import (
    RunFolderError,
    reading_errors,
    remove,
    remove_temporaries,
    write_atomic,
)
from mtrl_fairgrad.utils.file_schema import check_schema
from mtrl_fairgrad.utils.safe_files import entries, is_present, read_bytes
from mtrl_fairgrad.utils.safe_load import parse_mapping, read_mapping
from mtrl_fairgrad.utils.validation import ConfigError

if TYPE_CHECKING:  # torch takes a second to import, and only checkpoints need it
    from torch import Tensor

CONFIG, MANIFEST, CHECKPOINTS = "config.yaml", "manifest.json", "checkpoints"
CURVES = (metrics_log.NAME, metrics_log.SCALARS, metrics_log.EVENT_FILES)
"""Patterns of the files that training logs to."""
_LONGEST = "0" * 99
"""A name longer than all paths below the folder of checkpoints."""
TRAINING = "training"
"""Kind of a run whose manifest names none: reinforcement learning."""


class BaseRunFolder:
    """An existing run folder; `create` makes one, `open` reads one."""

    kind: ClassVar[str] = TRAINING
    """Recorded in the manifest unless it is `training`; `open` refuses a folder of another kind."""
    tables: ClassVar[Mapping[str, bytes]] = {}
    """Files of a new run, name → header; checkpoints are checked against the first one."""
    written: ClassVar[tuple[str, ...]] = CURVES
    """Patterns of further files that a run overwrites or removes."""
    recorded: ClassVar[tuple[str, ...]] = ()
    """Patterns of further files whose checksums each checkpoint holds."""

    def __init__(self, path: Path, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.manifest = manifest
        self._lock = RunLock(path)
        self.store = CheckpointStore(
            path,
            history=next(iter(self.tables), None),
            run_files=self.recorded,
            retry=self.how_to_continue(path),
            without=self.without_checkpoint,
        )

    def without_checkpoint(self) -> str:
        """Return what can be done with a run that has no intact checkpoint, for messages."""
        return "restore it from a copy, or start a new run"

    @staticmethod
    def how_to_continue(path: Path) -> str:
        """Return how to continue a run in the folder `path`, for messages."""
        return f"continue with {command_line('train', override('resume', path))}"

    @classmethod
    def _parts(cls) -> tuple[str, ...]:
        return (CONFIG, MANIFEST, *cls.tables, CHECKPOINTS)

    @classmethod
    def create(
        cls, path: str | Path, config: Mapping[str, Any], manifest: Mapping[str, Any]
    ) -> Self:
        """Start a run in a folder that holds none; other files in it are kept.

        The folder is locked meanwhile, and `lock` then refuses it if another process had it since.
        `config` and `manifest` hold mappings, sequences, str, int, float, bool and None.

        Raises:
            ConfigError: what is written could not be read again.
            RunFolderError: the folder holds a run, cannot be made, or is locked.
        """
        run = cls(Path(path), *_description(cls.kind, config, manifest))
        check_description(cls.kind, config, manifest)
        cls.check_vacant(run.path)
        try:
            os.makedirs(run.path, exist_ok=True)
            with run.lock():
                cls.check_vacant(run.path)  # another process may have made one meanwhile
                try:
                    os.mkdir(run.store.path)
                    for name, header in cls.tables.items():
                        write_atomic(run.path / name, header)
                    write_description(run.path, cls.kind, config, manifest)
                except BaseException:  # Ctrl-C included
                    if run._lock.is_own():
                        for name in (*cls._parts(), LOCK):
                            remove(run.path / name)
                    raise
        except OSError as error:
            raise RunFolderError(
                f"run_dir={path} cannot be created ({error.strerror}): choose a writable folder."
            ) from error
        return run

    @classmethod
    def check_vacant(cls, path: Path) -> None:
        """Raise RunFolderError if a folder holds a run already or cannot be made."""
        try:
            existing = [name for name in cls._parts() if is_present(path / name)]
            existing += [file.name for pattern in cls.written for file in entries(path, pattern)]
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(path / CHECKPOINTS / _LONGEST)
            parents = (path, *path.absolute().parents)
            parent = next(folder for folder in parents if os.path.lexists(folder))
            if not parent.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
            if not os.access(parent, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise RunFolderError(
                f"run_dir={path} cannot be created ({reason}): choose a writable folder."
            ) from error
        if existing:
            resumable = CONFIG in existing
            raise RunFolderError(
                f"run_dir={path} already holds a run ({existing[0]} exists), and runs are never "
                "overwritten: choose another run_dir"
                f"{f', or {cls.how_to_continue(path)}' if resumable else ''}."
            )

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a run's configuration and manifest, to evaluate, report or resume it.

        Raises:
            RunFolderError: the folder holds no such run, or one of the two files is damaged.
        """
        path = Path(path)
        if not is_present(path / CONFIG):
            raise RunFolderError(
                f"{path} holds no run (no config.yaml): give the folder that training wrote to."
            )
        manifest = read_run_file(path / MANIFEST, check_manifest)
        kind = manifest.get("kind", TRAINING)
        if kind != cls.kind:
            raise RunFolderError(
                f"{path} holds a {kind} run, but a {cls.kind} run is needed: give another folder."
            )
        return cls(path, read_run_file(path / CONFIG, cls.check_config), manifest)

    @classmethod
    def check_config(cls, config: dict[str, Any]) -> None:
        """Raise ConfigError if an option of a stored configuration has another type."""

    def discard(self) -> None:
        """Remove the files of a run that could not be started; keep other files.

        Nothing is removed if another process has locked the folder since this object did.
        """
        with contextlib.suppress(OSError, RunFolderError), self.lock():  # not writable, or taken
            for file in [each for name in self.written for each in entries(self.path, name)]:
                remove(file)
            self._remove_parts()

    def _remove_parts(self) -> None:
        """Remove what `create` made, and the folder if nothing else is in it; call under `lock`."""
        with contextlib.suppress(OSError):  # not empty, or not writable
            for name in (*self._parts(), LOCK):
                remove(self.path / name)
            os.rmdir(self.path)

    @classmethod
    def clear_unfinished(cls, path: Path) -> None:
        """Remove the files of a process that was killed during `create`.

        Such a folder lacks `config.yaml`, which is written last. A folder where any part differs
        from what `create` writes is not changed; `create` then refuses it.

        Raises:
            RunFolderError: the process is alive and holds the lock.
        """
        run = cls(path, {}, {})
        if run._is_unfinished():
            with run.lock():
                if run._is_unfinished():
                    run._remove_parts()

    def _is_unfinished(self) -> bool:
        """Whether there are parts of a run, but only as `create` writes them."""
        parts = [self.path / name for name in self._parts()]
        return any(map(is_present, parts)) and all(map(self._as_created, parts))

    @classmethod
    def _as_created(cls, part: Path) -> bool:
        """Whether a part of a run is missing, or is as `create` writes it before `config.yaml`."""
        if not is_present(part):
            return True
        with contextlib.suppress(OSError, RunFolderError):
            if part.name == CHECKPOINTS:
                return part.is_dir() and not entries(part, root=part.parent)
            if part.name == MANIFEST:
                return "config_sha256" in read_run_file(part)
            header = cls.tables.get(part.name)
            return header is not None and read_bytes(part, len(header)) == header
        return False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against other training processes, see `RunLock.held`."""
        with self._lock.held():
            yield

    def clean(self) -> None:
        """Remove partial files of a killed process; call under `lock`.

        Raises:
            RunFolderError: a file cannot be removed.
        """
        try:
            remove_temporaries(self.path)
            self.store.clean()
        except OSError as error:
            raise RunFolderError(
                f"{error.filename} cannot be removed ({error.strerror}): "
                f"restore access to {self.path}."
            ) from error

    # ---- checkpoints ----

    def save_checkpoint(
        self,
        env_steps: int,
        groups: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        keep: int = 2,
        ring: Ring | None = None,
    ) -> Path:
        """Write a checkpoint; see `CheckpointStore.save`."""
        return self.store.save(env_steps, groups, state, keep, ring)

    def resume_checkpoint(
        self,
        like: Mapping[str, Mapping[str, Tensor]],
        ring: Ring | None = None,
        env_steps: int | None = None,
        extra_bytes: int = 0,
    ) -> Checkpoint:
        """Read a checkpoint to continue from it; see `CheckpointStore.resume`."""
        return self.store.resume(like, ring, env_steps, extra_bytes)

    def checkpoints(self) -> list[Path]:
        """List the checkpoints, newest first; see `CheckpointStore.all`."""
        return self.store.all()

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint, intact or not."""
        return bool(self.store.all())

    def load_checkpoint(
        self, env_steps: int | None = None, groups: Collection[str] | None = None
    ) -> Checkpoint:
        """Read a checkpoint; see `CheckpointStore.load`."""
        return self.store.load(env_steps, groups)


def write_description(
    path: Path, kind: str, config: Mapping[str, Any], manifest: Mapping[str, Any]
) -> None:
    """Write manifest.json and config.yaml of a run to its folder, over those that are there.

    Args:
        path: the folder, which exists.
        kind: `training` or another kind of run.
        config: mappings, sequences, str, int, float, bool and None.
        manifest: of the same types, without kind and checksum.
    """
    config, manifest = _description(kind, config, manifest)
    write_atomic(path / MANIFEST, _encoded(MANIFEST, manifest))
    # Last, because a folder with a config.yaml counts as a run.
    write_atomic(path / CONFIG, _encoded(CONFIG, config))


def check_description(
    kind: str, config: Mapping[str, Any], manifest: Mapping[str, Any] | None = None
) -> None:
    """Check that a configuration and a manifest come back equal from the files they are written to.

    Raises:
        ConfigError: otherwise, with the option that does not, or the longest one.
    """
    written = dict(zip((CONFIG, MANIFEST), _description(kind, config, manifest or {}), strict=True))
    for name, content in written.items():
        reason = _unreadable(name, content)
        if reason is None:
            continue
        longest = max(config, key=lambda key: len(str(config[key])))
        options = written[CONFIG].items()
        key = next((key for key, value in options if _unreadable(CONFIG, {key: value})), longest)
        raise ConfigError(
            f"the run could not be resumed, because its {name} would not be read again ({reason}): "
            f"give a shorter or simpler {key}.",
            key,
            config[key],
        )


def _unreadable(name: str, content: Mapping[str, Any]) -> str | None:
    """Return why a file with this content would not be read equal; None if it would."""
    if name == CONFIG and "${" in json.dumps(content):
        return "it contains the interpolation ${"
    try:
        same = parse_mapping(_encoded(name, content), Path(name).suffix) == content
    except ValueError as error:
        return str(error)
    return None if same else "a value in it would change"


def _encoded(name: str, content: Mapping[str, Any]) -> bytes:
    if name == CONFIG:
        return yaml.safe_dump(content, sort_keys=False).encode()
    return json.dumps(content, indent=2).encode() + b"\n"


def _description(
    kind: str, config: Mapping[str, Any], manifest: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a configuration as it is read back, and the complete manifest."""
    # Through JSON, so that values equal those read back: tuples become lists.
    plain = json.loads(json.dumps(config))
    return plain, {
        **({} if kind == TRAINING else {"kind": kind}),
        **json.loads(json.dumps(manifest)),
        "config_sha256": config_sha256(plain),
    }


def check_manifest(content: dict[str, Any]) -> None:
    """Raise ConfigError if an entry of a manifest has another type."""
    check_schema(content, Manifest)


def read_run_file(
    path: Path, check: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, Any]:
    """Read a YAML or JSON file of a run folder.

    Raises:
        RunFolderError: it is missing or damaged, or `check` raises ValueError.
    """
    try:
        with reading_errors(path):
            content = read_mapping(path)
        check(content)
        return content
    except RunFolderError:
        raise
    except ValueError as error:
        raise RunFolderError(
            f"{path} is damaged or of another program ({error}): restore it from a copy, or give "
            "another run."
        ) from error
