"""The run folder of a fit, which is one method trained on one benchmark with one seed.

In addition to what `mtrl_fairgrad.runs.base_run_dir` describes, it contains

    epochs.csv               losses and metrics of every epoch
    outcome.json             the result, once the fit is finished
    fault.txt                the error that ended it, until it is continued
    events.out.tfevents.*    the same for TensorBoard

and its configuration is a `FitSpec`. Version 0.1.0 wrote that to fit.json, without a manifest;
such folders are still reported and continued. Nothing here imports PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict

from mtrl_fairgrad.config.schema import changed_keys
from mtrl_fairgrad.runs import resume_log
from mtrl_fairgrad.runs.base_run_dir import CONFIG, CURVES, BaseRunFolder, read_run_file
from mtrl_fairgrad.utils.atomic_io import RunFolderError, reading_errors, remove, write_atomic
from mtrl_fairgrad.utils.file_schema import Count, Measured, check_schema
from mtrl_fairgrad.utils.safe_files import entries, is_present, read_bytes

CONFIG_0_1 = "fit.json"
"""The file of the specification in folders of version 0.1.0."""
EPOCHS = "epochs.csv"
RESULT = "outcome.json"
FAULT = "fault.txt"
SINGLE_TASK = "stl"
"""The method that trains one task alone, its option `task`."""
LATER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "nyuv2": {"averaging": "pixels"},
    "cityscapes": {"averaging": "pixels"},
    "qm9": {"standardise": "training"},
}
"""Benchmark → options that version 0.1.0 did not have, and what it did."""
MAX_BYTES = 2**27
"""Largest size of epochs.csv, of table.csv and of fault.txt."""


class _Choice(TypedDict):
    name: str


class _Method(_Choice, total=False):
    alpha: float | None
    task: Count | None


class _StoredFit(TypedDict, total=False):
    """The specification of a fit; folders of version 0.1.0 lack parts."""

    benchmark: _Choice
    method: _Method
    schedule: dict[str, Any]
    convention: dict[str, Any]
    loss_alpha: float | None
    seed: Count


class _StoredResult(TypedDict, total=False):
    metrics: dict[str, Measured]
    validation: dict[str, Measured]
    seconds_per_epoch: Measured


@dataclass(frozen=True)
class FitResult:
    """The result of a fit."""

    metrics: dict[str, float]
    """Test metrics: means over the benchmark's last epochs, or those of its selected epoch."""
    validation: dict[str, float]
    """Validation metrics of the same epochs."""
    seconds_per_epoch: float
    """Median over epochs of the training time alone."""


class FitFolder(BaseRunFolder):
    """An existing folder of a fit."""

    kind: ClassVar[str] = "supervised"
    written: ClassVar[tuple[str, ...]] = (*CURVES, EPOCHS, RESULT, resume_log.NAME)
    recorded: ClassVar[tuple[str, ...]] = (resume_log.NAME,)

    @staticmethod
    def how_to_continue(path: Path) -> str:
        """Describe how a fit is continued, for messages."""
        return "give the command again with the same run_dir"

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read the specification of a fit.

        Raises:
            RunFolderError: there is none, it is damaged, or the folder is of an agent's run.
        """
        path = Path(path)
        old = path / CONFIG_0_1
        folder = (
            cls(path, read_run_file(old, cls.check_config), {})
            if is_present(old) and not is_present(path / CONFIG)
            else super().open(path)
        )
        benchmark = folder.config.get("benchmark")
        if isinstance(benchmark, dict):
            benchmark |= {**LATER_OPTIONS.get(str(benchmark.get("name")), {}), **benchmark}
        required = ("benchmark", "method", "schedule", "convention", "seed")
        folder._check_keys(old if is_present(old) else path / CONFIG, folder.config, required)
        return folder

    @classmethod
    def check_config(cls, config: dict[str, Any]) -> None:
        """Raise ConfigError if a part of a specification has another type."""
        check_schema(config, _StoredFit)

    @classmethod
    def open_or_create(
        cls, path: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]
    ) -> Self:
        """Open the folder of a fit, or create it.

        Raises:
            RunFolderError: the folder holds a fit of another specification, or cannot be created.
        """
        if not is_fit_folder(path):
            cls.clear_unfinished(path)
            return cls.create(path, config, manifest)
        folder = cls.open(path)
        for key, before, now in changed_keys(folder.config, dict(config)):
            raise RunFolderError(
                f"{path} holds a fit with another {key} ({before} there, {now} now): choose "
                "another run_dir, or give the same options."
            )
        return folder

    @property
    def seed(self) -> int:
        """The seed of the fit."""
        return self.config["seed"]

    @property
    def single_task(self) -> int | None:
        """Index of the only task that was trained; None if all were."""
        return single_task_of(self.config["method"])

    def result(self) -> FitResult | None:
        """Read the result; None while the fit is unfinished.

        Raises:
            RunFolderError: the file is damaged.
        """
        path = self.path / RESULT
        if not is_present(path):
            return None
        values = read_run_file(path, lambda content: check_schema(content, _StoredResult))
        keys = ("metrics", "validation", "seconds_per_epoch")
        self._check_keys(path, values, keys)
        return FitResult(**{key: values[key] for key in keys})

    def save_result(self, result: FitResult) -> None:
        """Write the result, which makes the fit finished."""
        write_atomic(self.path / RESULT, json.dumps(asdict(result), indent=1).encode() + b"\n")

    def check_start_over(self) -> None:
        """Check that a fit without checkpoints has no epochs that a new start would delete.

        Raises:
            RunFolderError: it has some.
        """
        epochs = self._content(EPOCHS).count(b"\n") - 1
        if epochs > 0:
            raise RunFolderError(
                f"{self.path} has no checkpoint to continue from, and starting over would delete "
                f"its {epochs} epochs: restore checkpoints/ from a copy, or choose another run_dir."
            )

    def fault(self) -> str | None:
        """Return the sentence of the error that ended the fit; None without one, or if finished."""
        if not is_present(self.path / FAULT) or is_present(self.path / RESULT):
            return None
        return self._content(FAULT).decode(errors="replace").partition("\n")[0]

    def _content(self, name: str) -> bytes:
        """Read a file of the folder; empty if there is none."""
        path = self.path / name
        with reading_errors(path):
            return read_bytes(path, MAX_BYTES) if is_present(path) else b""

    def save_fault(self, sentence: str, details: str) -> None:
        """Write the error that ended the fit: one sentence, then the traceback."""
        write_atomic(self.path / FAULT, f"{sentence}\n\n{details}".encode())

    def clear_fault(self) -> None:
        """Remove the record of an error, for a fit that is continued."""
        remove(self.path / FAULT)

    @staticmethod
    def _check_keys(file: Path, values: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        missing = [key for key in keys if key not in values]
        if missing:
            raise RunFolderError(
                f"{file} lacks {', '.join(missing)}: delete the fit's folder and run it again."
            )


def is_fit_folder(path: Path) -> bool:
    """Return whether a folder itself holds a fit, of this version or of 0.1.0."""
    if is_present(path / CONFIG_0_1):
        return True
    config = _supervised_config(path)
    return bool(config) and "seeds" not in config


def is_described(path: Path) -> bool:
    """Return whether a folder has the configuration of a supervised run, which has `seeds`."""
    return "seeds" in _supervised_config(path)


def _supervised_config(path: Path) -> Mapping[str, Any]:
    """Read the configuration of a fit or a supervised run; empty if a folder has none."""
    config = read_run_file(path / CONFIG) if is_present(path / CONFIG) else {}
    return config if "benchmark" in config else {}


def fit_folders(path: str | Path) -> list[Path]:
    """Return the folders of all fits of a run, of a method with its seeds, or of a single fit."""
    root = Path(path)
    methods = _folders_in(root)
    folders = [root, *methods, *(folder for method in methods for folder in _folders_in(method))]
    return sorted(folder for folder in folders if is_fit_folder(folder))


def _folders_in(folder: Path) -> list[Path]:
    """List the folders in a folder, without links.

    Raises:
        RunFolderError: it cannot be read.
    """
    with reading_errors(folder):
        return [path for path in entries(folder) if path.is_dir() and not path.is_symlink()]


def single_task_of(method: Mapping[str, Any]) -> int | None:
    """Return the index of the only task that a method's configuration trains; None for all."""
    return method.get("task") if method["name"] == SINGLE_TASK else None
