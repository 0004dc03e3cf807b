"""Checks of a run folder: whether its report can be trusted. Reads everything, changes nothing."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from mtrl_fairgrad.analysis.report.formats import as_csv
from mtrl_fairgrad.analysis.run_groups import MOST_PAIRS, RunGroup, pool
from mtrl_fairgrad.runs import fault_log, metrics_log, resume_log
from mtrl_fairgrad.runs.base_run_dir import BaseRunFolder
from mtrl_fairgrad.runs.checkpoint.index import CheckpointError, Index, check_file
from mtrl_fairgrad.runs.checkpoint.store import steps_of
from mtrl_fairgrad.runs.manifest import config_sha256
from mtrl_fairgrad.runs.policy_description import read_description
from mtrl_fairgrad.runs.resume_log import describe_changes, read_resumes
from mtrl_fairgrad.runs.run_dir import (
    CHECKSUMS,
    EVALUATIONS,
    FIGURE,
    REPORT,
    Evaluation,
    RunFolder,
    RunFolderError,
)
from mtrl_fairgrad.utils.atomic_io import Content
from mtrl_fairgrad.utils.safe_files import entries, files_below, is_present, read_bytes, size_of
from mtrl_fairgrad.utils.text_tables import counted

MANIFEST_KEYS = ("started", "protocol", "versions", "git", "platform", "device", "config_sha256")
_MAX_REPORT = 2**26
"""Largest size of a file of the report, in bytes."""
_MOST_MISSING = 1000
"""Largest number of missing evaluations that are named; a configuration may promise billions."""
_LISTED = 5
"""Largest number of wrong rows that a message lists."""


@dataclass
class Finding:
    """The result of one check."""

    check: str
    """A key of `CHECKS`."""
    summary: str = ""
    """What was checked, in a sentence without its period."""
    problems: list[str] = field(default_factory=list[str])
    """Reasons not to trust the report; empty if the check passed."""
    notes: list[str] = field(default_factory=list[str])
    """What a reader of the report should know."""


def verify(folder: RunFolder) -> list[Finding]:
    """Run all checks on a run folder; its report can be trusted if no finding has problems."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        finding = Finding(name)
        with recording_errors(finding.problems):
            finding.summary = check(folder, finding)
        findings.append(finding)
    return findings


@contextmanager
def recording_errors(problems: list[str], *explained: type[Exception]) -> Generator[None]:
    """Turn an error of a check into a problem.

    The files of a folder are untrusted: they may lack keys or hold values of other types.

    Args:
        problems: where the problem is added.
        explained: errors whose text says what is wrong, as that of `RunFolderError` does.
    """
    try:
        yield
    except (RunFolderError, *explained) as error:
        problems.append(str(error))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, OSError) as error:
        problems.append(f"cannot be checked ({type(error).__name__}: {error})")


def missing_entries(folder: BaseRunFolder) -> list[str]:
    """Return a sentence on what a manifest lacks, or nothing."""
    missing = [key for key in MANIFEST_KEYS if key not in folder.manifest]
    return [f"manifest.json lacks {', '.join(missing)}"] if missing else []


# ---- the checks: each adds problems and notes, and returns its summary ----


def _check_configuration(folder: RunFolder, finding: Finding) -> str:
    resumes = read_resumes(folder.path)
    recorded_steps = [entry["steps"] for entry in (folder.manifest, *resumes) if "steps" in entry]
    if recorded_steps and folder.steps < recorded_steps[-1]:
        finding.problems.append(
            f"config.yaml has steps={folder.steps}, but the run was to have {recorded_steps[-1]}"
        )
    recorded = folder.manifest.get("config_sha256")
    if recorded is None:
        finding.problems.append("manifest.json lacks the configuration's SHA-256")
    elif recorded != config_sha256(folder.config):
        finding.problems.append("config.yaml is not the configuration that the run began with")
    return "config.yaml is the one that the run began with"


def _check_manifest(folder: RunFolder, finding: Finding) -> str:
    finding.problems += missing_entries(folder)
    git = folder.manifest.get("git")
    if not git:
        finding.notes.append("the run's commit is not known (not a checkout)")
    elif git["dirty"]:
        finding.notes.append(f"the code differed from commit {git['commit'][:12]}")
    if folder.manifest.get("device", "cpu") != "cpu":
        finding.notes.append("on an accelerator, a repetition agrees up to rounding")
    resumes = read_resumes(folder.path)
    finding.notes += describe_changes(folder.manifest, resumes)
    times = f", and {resume_log.NAME} those of {counted(len(resumes), 'resume')}" if resumes else ""
    return f"manifest.json names versions, commit, machine and protocol{times}"


def _check_evaluations(folder: RunFolder, finding: Finding) -> str:
    config = folder.config
    steps, every = folder.steps, config["eval"]["every"]
    if len(config["seeds"]) * len(config["env"]["tasks"]) > MOST_PAIRS:
        raise RunFolderError(f"config.yaml has more than {MOST_PAIRS:,} pairs of seed and task")
    pairs = list(itertools.product(config["seeds"], config["env"]["tasks"]))
    evaluated: list[int] = []
    for env_steps, rows in itertools.groupby(folder.evaluations(), key=lambda row: row.env_steps):
        if evaluated and env_steps <= evaluated[-1]:
            finding.problems.append(f"env_steps {env_steps} come after {evaluated[-1]}")
        evaluated.append(env_steps)
        _check_rows(env_steps, list(rows), pairs, finding)
    # With copies, a vector step may pass over a multiple: what counts is where it ends.
    copies, found = config["env"].get("copies", 1), set(evaluated)
    last = max(evaluated, default=-1)
    earlier = itertools.takewhile(lambda due: due < last, _due(steps, every, copies))
    missing = (env_steps for env_steps in earlier if env_steps not in found)
    finding.problems += [
        f"env_steps {env_steps} was never evaluated"
        for env_steps in itertools.islice(missing, _MOST_MISSING)
    ]
    if last < steps:
        finding.problems.append(
            f"the run is not finished: evaluated up to {max(last, 0)} of {steps} env_steps"
        )
    extra = [number for number in sorted(found) if not _is_due(number, steps, every, copies)]
    if extra and extra[-1] > steps:
        finding.problems.append(
            f"env_steps {extra[-1]} were evaluated, but the run ends at {steps}"
        )
    elif extra:
        finding.notes.append(
            "also evaluated off the schedule, at an earlier end of the run: at "
            f"{', '.join(map(str, extra))}"
        )
    return (
        f"{len(evaluated)} evaluations of {len(pairs)} pairs of seed and task, "
        "each exactly once, in order"
    )


def _due(steps: int, every: int, copies: int) -> Iterator[int]:
    """Yield the env_steps that a run has to evaluate, ascending."""
    previous = -1
    for number in itertools.chain(range(0, steps, every), [steps]):
        due = -(-number // copies) * copies
        if due > previous:
            yield due
        previous = due


def _is_due(env_steps: int, steps: int, every: int, copies: int) -> bool:
    """Whether `_due` yields a number."""
    latest = min(env_steps, steps - 1) // every * every
    ends = (-(-number // copies) * copies for number in (latest, steps))
    return env_steps in ends


def _check_rows(
    env_steps: int, rows: Sequence[Evaluation], pairs: list[tuple[int, str]], finding: Finding
) -> None:
    actual = [(row.seed, row.task) for row in rows]
    if actual != pairs:
        counts, known = Counter(actual), set(pairs)
        wrong = [
            f"{kind} seed {seed}, task {task}"
            for kind, wrong_pairs in (
                ("no", [pair for pair in pairs if pair not in counts]),
                ("a second", [pair for pair, count in counts.items() if count > 1]),
                ("an unknown", [pair for pair in counts if pair not in known]),
            )
            for seed, task in wrong_pairs
        ] or ["another order"]
        finding.problems.append(f"at env_steps {env_steps} there is {', '.join(wrong[:_LISTED])}")
    if len({row.episodes for row in rows}) != 1 or any(row.episodes < 1 for row in rows):
        finding.problems.append(f"at env_steps {env_steps} the numbers of episodes differ")
    returns = [value for row in rows for value in row.returns if value is not None]
    if not all(map(math.isfinite, returns)):
        finding.problems.append(f"at env_steps {env_steps} a return is not finite")


def _check_checkpoints(folder: RunFolder, finding: Finding) -> str:
    store, steps = folder.store, int(folder.config["steps"])
    sizes: dict[Path, int] = {}
    paths = store.all()
    if not paths:
        return _check_absence(folder, steps, finding)
    for path in paths:
        for file, content in _files_of(path, folder, finding).items():
            if file not in sizes:
                sizes[file] = content.bytes
                try:
                    check_file(file, content, folder.path)
                except CheckpointError as error:
                    finding.problems.append(str(error))
    if steps_of(paths[0]) < steps:
        finding.problems.append(f"the newest is at {steps_of(paths[0])} of {steps} env_steps")
    folders = (folder.path, store.path, store.segments)
    leftovers = [path for each in folders for path in entries(each, ".*.tmp", folder.path)]
    leftovers += [
        path for path in entries(store.segments, "*.rows", folder.path) if path not in sizes
    ]
    if leftovers:
        finding.notes.append(
            f"{len(leftovers)} files of a process that was killed, which the next start removes"
        )
    steps_listed = ", ".join(str(steps_of(path)) for path in paths)
    total = f"{len(sizes)} files, {sum(sizes.values()):,} bytes"
    return f"at env_steps {steps_listed}: {total}, all with the checksums of writing"


def _check_absence(folder: RunFolder, steps: int, finding: Finding) -> str:
    """Check a run without checkpoints: published, or finished and freed of them."""
    left = files_below(folder.store.path)
    if left:
        finding.problems.append(
            f"{folder.store.path} holds {len(left)} files but no checkpoint: some are missing"
        )
    if (folder.last_evaluated or 0) < steps:
        finding.problems.append("an unfinished run has no checkpoint to continue from")
    finding.notes.append(
        "no checksum of training shows that evaluations and curves are unchanged, and the run "
        "cannot be continued"
    )
    return "published without checkpoints"


def _files_of(checkpoint: Path, folder: RunFolder, finding: Finding) -> dict[Path, Content]:
    try:
        index = Index.read(checkpoint)
    except CheckpointError as error:
        finding.problems.append(str(error))
        return {}
    files = {checkpoint / name: content for name, content in index.files.items()}
    if index.ring is not None:
        files |= {
            folder.store.segments / segment.name: index.ring.content(segment)
            for segment in index.ring.segments
        }
    return files


def _check_history(folder: RunFolder, finding: Finding) -> str:
    sizes: dict[str, int] = {}
    for path in reversed(folder.checkpoints()):
        try:
            index = Index.read(path)
        except CheckpointError:
            continue  # reported by the check of the checkpoints
        for name, content in index.run_files.items():
            sizes[name] = content.bytes
            if name == fault_log.NAME:
                continue  # written anew for each checkpoint
            try:
                index.check_run_file(folder.path, name)
            except CheckpointError as error:
                finding.problems.append(f"{error} at env_steps {steps_of(path)}")
    if not folder.has_checkpoint():
        return "not recorded without checkpoints"
    _check_faults(folder, finding)
    finished = steps_of(folder.checkpoints()[0]) >= folder.steps
    for name in (EVALUATIONS, metrics_log.NAME):
        if is_present(folder.path / name) and size_of(folder.path / name) > sizes.get(name, 0):
            # The last checkpoint of a run follows its last evaluation.
            wrong = finished and name == EVALUATIONS
            (finding.problems if wrong else finding.notes).append(
                f"{name} has rows after the newest checkpoint, which no checksum covers"
            )
    return (
        f"{len(sizes)} files, evaluations and curves among them, "
        "begin as when the checkpoints were made"
    )


def _check_faults(folder: RunFolder, finding: Finding) -> None:
    """Check incidents.csv against the newest checkpoint; older versions did not record it."""
    newest, path = folder.checkpoints()[0], folder.path / fault_log.NAME
    try:
        recorded = Index.read(newest).run_files[fault_log.NAME]
    except (CheckpointError, KeyError):
        return  # an unreadable index is reported by the check of the checkpoints
    if steps_of(newest) < folder.steps and is_present(path):
        finding.notes.append(f"{fault_log.NAME} grows until the run is finished")
        return
    try:
        check_file(path, recorded)
    except CheckpointError as error:
        finding.problems.append(str(error))


def _check_policies(folder: RunFolder, finding: Finding) -> str:
    paths, compared = folder.exported_policies(), 0
    evaluations = folder.evaluations() if paths else []
    for path in paths:
        described = read_description(path)
        program, steps = described["program"], described["training"]["env_steps"]
        try:
            check_file(
                path.with_name(program["file"]),
                Content(program["bytes"], program["sha256"]),
                folder.path,
            )
        except CheckpointError as error:
            finding.problems.append(str(error))
        rates, goals = described["result"]["success"], described["result"]["goals"]
        rows = {
            row.task: row.success
            for row in evaluations
            if (row.env_steps, row.seed, row.episodes) == (steps, described["seed"], goals)
        }
        compared += bool(rows)
        differing = [task for task in rows if rates.get(task) != rows[task]]
        if differing:
            # On another device, the policy's actions differ in rounding.
            said = finding.problems if folder.manifest.get("device") == "cpu" else finding.notes
            said.append(
                f"{path.name} records other success rates than evaluations.csv at env_steps "
                f"{steps} for {', '.join(differing[:_LISTED])}"
            )
    if not paths:
        return "none was exported"
    return (
        f"{len(paths)} exported, with the checksums of writing; {compared} of them record the "
        "success rates of an evaluation"
    )


def _check_report(folder: RunFolder, finding: Finding) -> str:
    groups = pool([folder])
    _check_report_files(folder, groups, finding)
    [group] = groups
    if group.left_out:
        finding.problems.append(f"it would leave out {group.left_out} evaluations")
    curves = len(group.metrics[0].series)
    return f"can be made of {len(group.env_steps)} evaluations and {curves} curves"


def _check_report_files(folder: RunFolder, groups: Sequence[RunGroup], finding: Finding) -> None:
    """Check the report's files against their checksums, and its table against the run."""
    path = folder.path
    if is_present(path / CHECKSUMS):
        sums = read_bytes(path / CHECKSUMS, _MAX_REPORT).decode(errors="replace").splitlines()
        recorded = dict(line.split("  ")[::-1] for line in sums)
        for name in (REPORT, FIGURE):
            data = read_bytes(path / name, _MAX_REPORT) if is_present(path / name) else b""
            if sha256(data).hexdigest() != recorded.get(name):
                finding.problems.append(f"{path / name} is not as it was written")
    if not is_present(path / REPORT):
        return
    if not is_present(path / CHECKSUMS) and "steps" in folder.manifest:
        finding.problems.append(f"{path / CHECKSUMS} is missing")  # older versions wrote none
    if read_bytes(path / REPORT, _MAX_REPORT) != as_csv(groups).encode():
        finding.notes.append(
            f"{REPORT} differs from what this version reports of the whole run: it was made with "
            "--until, at an earlier end of the run, or by another version"
        )


CHECKS: dict[str, Callable[[RunFolder, Finding], str]] = {
    "configuration": _check_configuration,
    "manifest": _check_manifest,
    "evaluations": _check_evaluations,
    "checkpoints": _check_checkpoints,
    "history": _check_history,
    "policies": _check_policies,
    "report": _check_report,
}
