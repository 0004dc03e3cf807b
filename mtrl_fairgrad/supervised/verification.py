"""Checks of supervised fits, for `python -m mtrl_fairgrad.verify`: can their result be trusted?

The checkpoint holds the numbers of all epochs under a checksum: epochs.csv must be made of them,
and outcome.json must follow from them. Of a run, table.csv must follow from the results of its
fits. A fit that failed has no result to check: it is named, and its row of the table has the cause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mtrl_fairgrad.analysis.verification import Finding, missing_entries, recording_errors
from mtrl_fairgrad.runs.base_run_dir import BaseRunFolder
from mtrl_fairgrad.runs.checkpoint.index import CheckpointError, Index, check_file
from mtrl_fairgrad.runs.manifest import config_sha256
from mtrl_fairgrad.runs.resume_log import describe_changes, read_resumes
from mtrl_fairgrad.supervised.benchmarks import benchmark_class
from mtrl_fairgrad.supervised.epochs import EpochRecord, epochs_csv, result_of
from mtrl_fairgrad.supervised.fit_folder import (
    EPOCHS,
    MAX_BYTES,
    FitFolder,
    fit_folders,
    is_described,
)
from mtrl_fairgrad.supervised.run_folder import SEARCH, TABLE, SupervisedRunFolder
from mtrl_fairgrad.supervised.table_check import check_tables
from mtrl_fairgrad.utils.faults import TrainingFault
from mtrl_fairgrad.utils.safe_files import is_present, read_bytes
from mtrl_fairgrad.utils.text_tables import counted
from mtrl_fairgrad.utils.validation import ConfigError


class _CheckedFit(FitFolder):
    """A fit that several checks read."""

    @cached_property
    def history(self) -> list[EpochRecord]:
        """The epochs of the newest checkpoint; CheckpointError if there is none."""
        return [
            EpochRecord(**record) for record in self.load_checkpoint(groups=()).state["history"]
        ]


def verify_fits(path: Path) -> list[Finding]:
    """Check all fits of a run, of a method, or a single one: a finding for each check.

    Raises:
        RunFolderError: a configuration or a manifest is damaged.
    """
    fits = {fit: fit.fault() for fit in map(_CheckedFit.open, fit_folders(path))}
    run = SupervisedRunFolder.open(path) if is_described(path) else None
    ended = [fit for fit, fault in fits.items() if fault is None]
    findings: list[Finding] = []
    for name, (check, summary) in CHECKS.items():
        checked: list[BaseRunFolder] = [*ended]
        if name in DESCRIPTION:
            checked = [*fits, *([] if run is None else [run])]
        finding = Finding(name, f"{counted(len(fits), 'fit')}: {summary}")
        if name == "manifest":
            finding.notes += [note for fit in fits for note in _changes(fit)]
        for folder in checked:
            problems = _problems(partial(check, folder))
            finding.problems += [f"{folder.path}: {problem}" for problem in problems]
        findings.append(finding)
    findings[-1].notes += [f"{fit.path} failed: {fault}" for fit, fault in fits.items() if fault]
    if fits and not ended:
        findings[-1].problems.append("all fits failed")
    return findings if run is None else [*findings, _check_run(run)]


def _changes(fit: FitFolder) -> list[str]:
    """Say which numbers of a fit were made after a resume with other versions or machine."""
    changes: list[str] = []
    with recording_errors(changes):
        changes += describe_changes(fit.manifest, read_resumes(fit.path))
    return [f"{fit.path}: {change}" for change in changes]


def _check_run(run: SupervisedRunFolder) -> Finding:
    finding = Finding("tables", f"{TABLE} and {SEARCH}, if any, follow from the fits")

    def check() -> Sequence[str]:
        problems, finding.notes = check_tables(run)
        return problems

    finding.problems = _problems(check)
    return finding


def _problems(check: Callable[[], Sequence[str]]) -> list[str]:
    """Return what a check finds, or why it could not be made."""
    problems: list[str] = []
    with recording_errors(problems, ConfigError, TrainingFault):
        problems += check()
    return problems


def _check_configuration(folder: BaseRunFolder) -> Sequence[str]:
    recorded = folder.manifest.get("config_sha256")
    if recorded is None:
        return ["there is no manifest with the configuration's SHA-256"]
    if recorded != config_sha256(folder.config):
        return ["config.yaml is not the configuration that the manifest belongs to"]
    return []


def _check_checkpoints(fit: _CheckedFit) -> Sequence[str]:
    problems: list[str] = []
    for checkpoint in fit.checkpoints():
        try:
            index = Index.read(checkpoint)
            for name, content in index.files.items():
                check_file(checkpoint / name, content, fit.path)
            for name in index.run_files:
                index.check_run_file(fit.path, name)
        except CheckpointError as error:
            problems.append(str(error))
    epochs, due = len(fit.history), fit.config["schedule"]["epochs"]
    if epochs != due:
        problems.append(f"the fit is not finished: {epochs} of {due} epochs")
    return problems


def _check_epochs(fit: _CheckedFit) -> Sequence[str]:
    if not all(math.isfinite(loss) for record in fit.history for loss in record.losses.values()):
        return ["a loss is not finite"]
    file = fit.path / EPOCHS
    expected = epochs_csv(fit.history).encode()
    if not is_present(file) or read_bytes(file, MAX_BYTES) != expected:
        return [f"{EPOCHS} does not have the numbers of the checkpoint"]
    return []


def _check_result(fit: _CheckedFit) -> Sequence[str]:
    result = fit.result()
    if result is None:
        return ["there is no result"]
    benchmark = benchmark_class(fit.config["benchmark"]["name"])()
    expected = result_of(fit.history, benchmark, fit.single_task)
    # By representation, because NaN differs from itself.
    if repr(asdict(result)) != repr(asdict(expected)):
        return ["outcome.json does not follow from the epochs"]
    return []


CHECKS: dict[str, tuple[Callable[[Any], Sequence[str]], str]] = {
    "configuration": (_check_configuration, "config.yaml is the one that the fit began with"),
    "manifest": (missing_entries, "manifest.json names versions, commit and machine"),
    "checkpoints": (_check_checkpoints, "all files have the checksums of writing, to the end"),
    "epochs": (_check_epochs, "epochs.csv has the numbers of the checkpoint"),
    "result": (_check_result, "outcome.json follows from the epochs"),
}
"""Name → check, which returns problems, and what holds if there are none."""
DESCRIPTION = ("configuration", "manifest")
"""Checks that the folder of a run needs, too; the others are for fits that did not fail."""
