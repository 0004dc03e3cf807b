"""Checks of supervised fits, for `python -m mtrl_fairgrad.verify`: can their result be trusted?

The checkpoint holds the numbers of all epochs under a checksum: epochs.csv must be made of them,
and outcome.json must follow from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from mtrl_fairgrad.analysis.verification import MANIFEST_KEYS, Finding
from mtrl_fairgrad.runs.checkpoint.index import CheckpointError, Index, check_file
from mtrl_fairgrad.runs.manifest import config_sha256
from mtrl_fairgrad.supervised.benchmarks import benchmark_class
from mtrl_fairgrad.supervised.epochs import EpochRecord, epochs_csv, result_of
from mtrl_fairgrad.supervised.fit_folder import EPOCHS, FitFolder, fit_folders
from mtrl_fairgrad.utils.atomic_io import RunFolderError


def verify_fits(path: Path) -> list[Finding]:
    """Check all fits of a run, of a method, or a single one: a finding for each check.

    Raises:
        RunFolderError: a fit's configuration or manifest is damaged.
    """
    fits = [FitFolder.open(folder) for folder in fit_folders(path)]
    findings: list[Finding] = []
    for name, (check, summary) in CHECKS.items():
        finding = Finding(name, f"{len(fits)} fit{'s' * (len(fits) != 1)}: {summary}")
        for fit in fits:
            try:
                problems = list(check(fit))
            except RunFolderError as error:
                problems = [str(error)]
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                problems = [f"cannot be checked ({type(error).__name__}: {error})"]
            finding.problems += [f"{fit.path}: {problem}" for problem in problems]
        findings.append(finding)
    return findings


def _check_configuration(fit: FitFolder) -> Sequence[str]:
    recorded = fit.manifest.get("config_sha256")
    if recorded is None:
        return ["there is no manifest with the configuration's SHA-256"]
    if recorded != config_sha256(fit.config):
        return ["config.yaml is not the configuration that the fit began with"]
    return []


def _check_manifest(fit: FitFolder) -> Sequence[str]:
    missing = [key for key in MANIFEST_KEYS if key not in fit.manifest]
    return [f"manifest.json lacks {', '.join(missing)}"] if missing else []


def _check_checkpoints(fit: FitFolder) -> Sequence[str]:
    problems: list[str] = []
    for checkpoint in fit.checkpoints():
        try:
            for name, content in Index.read(checkpoint).files.items():
                check_file(checkpoint / name, content)
        except CheckpointError as error:
            problems.append(str(error))
    if len(_history(fit)) != fit.config["schedule"]["epochs"]:
        problems.append(
            f"the fit is not finished: {len(_history(fit))} of "
            f"{fit.config['schedule']['epochs']} epochs"
        )
    return problems


def _check_epochs(fit: FitFolder) -> Sequence[str]:
    history = _history(fit)
    if not all(math.isfinite(loss) for record in history for loss in record.losses.values()):
        return ["a loss is not finite"]
    file = fit.path / EPOCHS
    if not file.is_file() or file.read_bytes() != epochs_csv(history).encode():
        return [f"{EPOCHS} does not have the numbers of the checkpoint"]
    return []


def _check_result(fit: FitFolder) -> Sequence[str]:
    result = fit.result()
    if result is None:
        return ["there is no result"]
    benchmark = benchmark_class(fit.config["benchmark"]["name"])()
    expected = result_of(_history(fit), benchmark, fit.single_task)
    # By representation, because NaN differs from itself.
    if repr(asdict(result)) != repr(asdict(expected)):
        return ["outcome.json does not follow from the epochs"]
    return []


def _history(fit: FitFolder) -> list[EpochRecord]:
    """Read the epochs of the newest checkpoint; CheckpointError if there is none."""
    return [EpochRecord(**record) for record in fit.load_checkpoint(groups=()).state["history"]]


CHECKS: dict[str, tuple[Callable[[FitFolder], Sequence[str]], str]] = {
    "configuration": (_check_configuration, "config.yaml is the one that the fit began with"),
    "manifest": (_check_manifest, "manifest.json names versions, commit and machine"),
    "checkpoints": (_check_checkpoints, "all files have the checksums of writing, to the end"),
    "epochs": (_check_epochs, "epochs.csv has the numbers of the checkpoint"),
    "result": (_check_result, "outcome.json follows from the epochs"),
}
"""Name → check, which returns problems, and what holds if there are none."""
