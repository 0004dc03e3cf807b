"""Re-check a run's folder: `python -m mtrl_fairgrad.verify RUN [--json]` says whether its report
can be trusted.

It reads everything and changes nothing:

    configuration   config.yaml is the one that the run began with (`steps` may have grown)
    manifest        says what the numbers depend on
    evaluations     every due env_steps × seed × task is there exactly once, in order, up to the end
    of the run checkpoints     every file and segment has its SHA-256, the newest checkpoint is at
    the end of the run history         manifest, evaluations and curves begin as they did when the
    checkpoints were made report          can be made of it

The exit code is 0 if all hold, 1 if the report cannot be trusted, 2 if there is no run to check.
Digests find damage and slips of the hand; whoever forges a run forges them, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from mtrl_fairgrad.analysis.run_groups import pool
from mtrl_fairgrad.runs.checkpoint.index import CheckpointError, Index, check_file
from mtrl_fairgrad.runs.checkpoint.store import steps_of
from mtrl_fairgrad.runs.manifest import config_sha256
from mtrl_fairgrad.runs.run_dir import Evaluation, RunFolder, RunFolderError
from mtrl_fairgrad.utils.arguments import Parser, fail, named
from mtrl_fairgrad.utils.atomic_io import Content
from mtrl_fairgrad.utils.validation import ConfigError

_DEPENDS_ON = ("started", "protocol", "versions", "git", "platform", "device", "config_sha256")
_SHOWN = 5
"""Problems of one check that are told one by one."""


@dataclass
class Finding:
    """What one check found."""

    check: str
    said: str = ""
    """What was looked at."""
    problems: list[str] = field(default_factory=list)
    """Why the report cannot be trusted; empty if the check holds."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the report should know."""


def verify(folder: RunFolder) -> list[Finding]:
    """All checks of a run's folder; its report can be trusted if none has problems."""
    checks = (_configuration, _manifest, _evaluations, _checkpoints, _history, _report)
    return [_carried_out(each, folder) for each in checks]


def _carried_out(each: Callable[[RunFolder, Finding], str], folder: RunFolder) -> Finding:
    found = Finding(each.__name__.removeprefix("_"))
    try:
        found.said = each(folder, found)
    except RunFolderError as error:
        found.problems.append(str(error))
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
    ) as error:  # config.yaml may be anything
        found.problems.append(f"cannot be checked ({type(error).__name__}: {error})")
    return found


# ---- the checks: each notes what it finds and returns what it looked at ----


def _configuration(folder: RunFolder, found: Finding) -> str:
    known = folder.manifest.get("config_sha256")
    if known is None:
        found.problems.append("manifest.json does not know the configuration's SHA-256")
    elif known != config_sha256(folder.config):
        found.problems.append("config.yaml is not the configuration that the run began with")
    return "config.yaml is the one that the run began with"


def _manifest(folder: RunFolder, found: Finding) -> str:
    missing = [key for key in _DEPENDS_ON if key not in folder.manifest]
    if missing:
        found.problems.append(f"manifest.json lacks {', '.join(missing)}")
    git = folder.manifest.get("git")
    if not git:
        found.notes.append("the run's commit is not known (not a checkout)")
    elif git["dirty"]:
        found.notes.append(f"the code differed from commit {git['commit'][:12]}")
    if folder.manifest.get("device", "cpu") != "cpu":
        found.notes.append("repeated on an accelerator, numbers agree up to rounding")
    return "manifest.json names versions, commit, machine and protocol"


def _evaluations(folder: RunFolder, found: Finding) -> str:
    config = folder.config
    steps, every = int(config["steps"]), int(config["eval"]["every"])
    pairs = list(itertools.product(config["seeds"], config["env"]["tasks"]))
    measured: list[int] = []
    for env_steps, rows in itertools.groupby(folder.evaluations(), key=lambda row: row.env_steps):
        if measured and env_steps <= measured[-1]:
            found.problems.append(f"env_steps {env_steps} come after {measured[-1]}")
        measured.append(env_steps)
        _check_rows(env_steps, list(rows), pairs, found)
    due = sorted({*range(0, steps, every), steps})
    reached = max(measured, default=-1)
    found.problems += [
        f"env_steps {each} was never evaluated"
        for each in due
        if each < reached and each not in measured
    ]
    if reached < steps:
        found.problems.append(
            f"the run is not finished: evaluated up to {max(reached, 0)} of {steps} env_steps"
        )
    if extra := sorted(set(measured) - set(due)):
        found.notes.append(
            "evaluated off the schedule, too, where the run once ended: at "
            f"{', '.join(map(str, extra))}"
        )
    return f"{len(measured)} evaluations of {len(pairs)} pairs of seed and task, each exactly once, in order"


def _check_rows(
    env_steps: int, rows: Sequence[Evaluation], pairs: list[tuple[int, str]], found: Finding
) -> None:
    there = [(row.seed, row.task) for row in rows]
    if there != pairs:
        wrong = [
            f"{what} seed {seed}, task {task}"
            for what, ones in (
                ("no", [pair for pair in pairs if pair not in there]),
                ("a second", [pair for n, pair in enumerate(there) if pair in there[:n]]),
                ("an unknown", [pair for pair in there if pair not in pairs]),
            )
            for seed, task in ones
        ] or ["another order"]
        found.problems.append(f"at env_steps {env_steps} there is {', '.join(wrong[:_SHOWN])}")
    if len({row.episodes for row in rows}) != 1 or any(row.episodes < 1 for row in rows):
        found.problems.append(f"at env_steps {env_steps} the numbers of episodes differ")
    if not all(math.isfinite(row.return_) for row in rows):
        found.problems.append(f"at env_steps {env_steps} a return is not finite")


def _checkpoints(folder: RunFolder, found: Finding) -> str:
    store, steps = folder.store, int(folder.config["steps"])
    sizes: dict[Path, int] = {}
    paths = store.all()
    if not paths:
        raise RunFolderError("there is none")
    for path in paths:
        for file, content in _files_of(path, folder, found).items():
            if file not in sizes:
                sizes[file] = content.bytes
                try:
                    check_file(file, content)
                except CheckpointError as error:
                    found.problems.append(str(error))
    if steps_of(paths[0]) < steps:
        found.problems.append(f"the newest is at {steps_of(paths[0])} of {steps} env_steps")
    left = [
        path for place in (folder.path, store.path, store.segments) for path in place.glob(".*.tmp")
    ]
    left += [path for path in store.segments.glob("*.rows") if path not in sizes]
    if left:
        found.notes.append(
            f"{len(left)} files of a process that was killed, which the next start removes"
        )
    places = ", ".join(str(steps_of(path)) for path in paths)
    return f"at env_steps {places}: {len(sizes)} files, {sum(sizes.values()):,} bytes, all as they were written"


def _files_of(checkpoint: Path, folder: RunFolder, found: Finding) -> dict[Path, Content]:
    try:
        index = Index.read(checkpoint)
    except CheckpointError as error:
        found.problems.append(str(error))
        return {}
    files = {checkpoint / name: content for name, content in index.files.items()}
    if index.ring is not None:
        files |= {
            folder.store.segments / each.name: index.ring.content(each)
            for each in index.ring.segments
        }
    return files


def _history(folder: RunFolder, found: Finding) -> str:
    known: dict[str, int] = {}
    for path in reversed(folder.checkpoints()):
        try:
            index = Index.read(path)
        except CheckpointError:
            continue  # told by the check of the checkpoints
        for name, content in index.run_files.items():
            known[name] = content.bytes
            try:
                index.check_run_file(folder.path, name)
            except CheckpointError as error:
                found.problems.append(f"{error} at env_steps {steps_of(path)}")
    rows = folder.path / "evaluations.csv"
    if rows.is_file() and rows.stat().st_size > known.get(rows.name, 0):
        found.notes.append(
            "evaluations.csv goes on after the newest checkpoint, where no SHA-256 vouches for it"
        )
    return f"{len(known)} files, evaluations and curves among them, begin as when the checkpoints were made"


def _report(folder: RunFolder, found: Finding) -> str:
    [group] = pool([folder])
    if group.left_out:
        found.problems.append(f"it would leave out {group.left_out} evaluations")
    return f"can be made of {len(group.env_steps)} evaluations and {len(group.metrics[0].series)} curves"


# ---- the command ----


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the run of the command line and say what was found; returns the exit code."""
    parser = Parser(
        prog="python -m mtrl_fairgrad.verify",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("run", type=named, help="run folder")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    try:
        given = parser.parse_args(arguments)
        findings = verify(RunFolder.open(given.run))
    except (ConfigError, RunFolderError) as error:
        return fail(error)
    trusted = not any(finding.problems for finding in findings)
    if given.json:
        result: dict[str, Any] = {"run": str(given.run), "trusted": trusted}
        print(
            json.dumps({**result, "findings": [asdict(finding) for finding in findings]}, indent=1)
        )
    else:
        print("\n".join(_in_words(given.run, findings, trusted)))
    return 0 if trusted else 1


def _in_words(run: Path, findings: Sequence[Finding], trusted: bool) -> list[str]:
    lines: list[str] = []
    for finding in findings:
        told = finding.problems[:_SHOWN]
        if more := len(finding.problems) - len(told):
            told.append(f"and {more} more")
        lines += [
            f"{'BAD' if told else 'ok':5}{finding.check:15}{line}"
            for line in told or [finding.said]
        ]
        lines += [f"{'note':5}{finding.check:15}{note}" for note in finding.notes]
    if trusted:
        return [
            *lines,
            f"The report of {run} can be trusted: its files are as training wrote them, none is "
            "missing.",
        ]
    return [*lines, f"The report of {run} cannot be trusted, for the reasons above."]


if __name__ == "__main__":
    sys.exit(main())
