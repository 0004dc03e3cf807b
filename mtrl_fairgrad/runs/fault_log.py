"""Numerical faults of a run's updates: incidents.csv and their description in sentences.

The agent counts faults (`mtrl_fairgrad.agents.guard`); the file holds its counts at the last
checkpoint, or when a fault stopped the run (`mtrl_fairgrad.training.fault_monitor`). Reading needs
no PyTorch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from mtrl_fairgrad.config.guard import CHECKS, COUNT, SEED_CONDITIONS, GuardConfig
from mtrl_fairgrad.utils.atomic_io import RunFolderError, reading_errors
from mtrl_fairgrad.utils.safe_files import is_present, read_bytes
from mtrl_fairgrad.utils.text_tables import counted, csv_text
from mtrl_fairgrad.utils.validation import MAX_COUNT, MAX_NAME, MAX_SEED

NAME = "incidents.csv"
MAX_BYTES = 2**24
"""Largest size of incidents.csv, about a hundred thousand rows."""
COLUMNS = (
    "network",
    "condition",
    "seed",
    "task",
    "updates",
    "of_updates",
    "first_update",
    "answer",
)
CONDITION_TEXTS = {
    "non_finite": "a loss or gradient was not finite",
    "unsolved": "the method's equation was not solved",
    "vanished_gradient": "a gradient had vanished",
    "exploding_value": "Q was beyond guard.largest_value",
    "dead_temperature": "the entropy coefficient was below guard.smallest_temperature",
}
SIMULATOR, EVALUATION = "simulator", "evaluation"
"""In place of a network: transitions of training, and episodes of evaluations, with a number that
is not finite; `first_update` then is the env_steps of the first.
"""
SIMULATED_TEXTS = {
    SIMULATOR: ("an observation or reward was not finite", "transition"),
    EVALUATION: ("an observation, reward or action was not finite", "episode"),
}
"""Condition and unit of those, in words."""
RESPONSE_TEXTS = {
    "count": "counted",
    "ls": "these updates gave all tasks equal weights",
    "skip": "these updates were skipped",
    "stop": "training of the seed ended there",
}
"""What each response to a fault did to the updates."""


@dataclass(frozen=True, slots=True)
class Fault:
    """How often one condition occurred for one task of one seed."""

    network: str
    """critic or actor; or `SIMULATOR` or `EVALUATION`."""
    condition: str
    """One of `mtrl_fairgrad.config.guard.CONDITIONS`."""
    seed: int
    task: str
    """Empty for a condition of all tasks of a seed."""
    updates: int
    """Number of updates with the condition."""
    of_updates: int
    """Number of all updates."""
    first_update: int
    """Index of the first update with the condition, from 0."""
    response: str


def make_faults(
    counts: Sequence[Any],
    first: Sequence[Any],
    updates: int,
    seeds: Sequence[int],
    tasks: Sequence[str],
    guard: GuardConfig,
) -> list[Fault]:
    """Convert the agent's counters to a list of faults.

    Args:
        counts: nested lists `[C][S][K]` of `mtrl_fairgrad.agents.guard.FaultCounts`: updates with
            each condition.
        first: nested lists of the same shape: the first update with each condition.
        updates: number of all updates.
        seeds: the run's S seeds.
        tasks: names of the K tasks.
        guard: responses to the conditions.
    """
    faults: list[Fault] = []
    for n, (network, condition) in enumerate(CHECKS):
        response = getattr(guard, condition)
        for s, seed in enumerate(seeds):
            for k, task in enumerate(tasks[:1] if condition in SEED_CONDITIONS else tasks):
                if counts[n][s][k]:
                    name = "" if condition in SEED_CONDITIONS else task
                    # A policy may diverge before the next update, which counts as one more.
                    times = counts[n][s][k], max(updates, counts[n][s][k]), first[n][s][k]
                    faults.append(Fault(network, condition, seed, name, *times, response))
    return faults


def encode_faults(faults: Iterable[Fault]) -> bytes:
    """Return the content of incidents.csv."""
    return csv_text([COLUMNS, *map(astuple, faults)]).encode()


def read_faults(folder: Path) -> list[Fault]:
    """Read the faults of a run folder; empty if it has no incidents.csv.

    Raises:
        RunFolderError: the file cannot be read, or is damaged.
    """
    path = folder / NAME
    if not is_present(path):
        return []
    with reading_errors(path):
        data = read_bytes(path, MAX_BYTES)
    try:
        header, *rows = csv.reader(io.StringIO(data.decode()))
        if tuple(header) != COLUMNS or any(len(cell) > MAX_NAME for row in rows for cell in row):
            raise ValueError
        faults = [
            Fault(network, condition, int(seed), task, int(updates), int(of), int(first), response)
            for network, condition, seed, task, updates, of, first, response in rows
        ]
        if not all(
            0 <= fault.seed <= MAX_SEED
            and 1 <= fault.updates <= fault.of_updates <= MAX_COUNT
            and 0 <= fault.first_update <= MAX_COUNT
            for fault in faults
        ):
            raise ValueError
        return faults
    except (ValueError, csv.Error):
        raise RunFolderError(f"{path} is damaged: remove it to report without faults.") from None


def condition_text(fault: Fault) -> str:
    """Return the condition of a fault in words."""
    if fault.network in SIMULATED_TEXTS:
        return SIMULATED_TEXTS[fault.network][0]
    return CONDITION_TEXTS.get(fault.condition, fault.condition)


def describe_faults(faults: Sequence[Fault]) -> str:
    """Describe faults that differ in task only, in one sentence without its period."""
    first = faults[0]
    tasks = ", ".join(fault.task for fault in faults if fault.task)
    where = f"seed {first.seed}" + (f", {tasks}" if tasks else "")
    times = max(fault.updates for fault in faults)
    first_update = min(fault.first_update for fault in faults)
    condition = condition_text(first)
    unit, begun = "update", f"in update {first_update:,}"
    if first.network in SIMULATED_TEXTS:
        unit, begun = SIMULATED_TEXTS[first.network][1], f"at env_steps {first_update:,}"
    response = RESPONSE_TEXTS.get(first.response, first.response)
    total = counted(first.of_updates, unit)
    return (
        f"{where}: {first.network}: {condition} in {times:,} of {total}, first {begun}; {response}"
    )


def describe_all(faults: Iterable[Fault]) -> list[str]:
    """Describe all faults in sentences without their period.

    There is one for each seed, network and condition, but only one for all equations that were not
    solved and only counted: most runs with a solver that is not exact have them throughout.
    """
    groups = group_by_task(faults)
    unsolved = [group[0] for group in groups if is_unsolved(group[0])]
    others = [describe_faults(group) for group in groups if not is_unsolved(group[0])]
    return ([_describe_unsolved(unsolved)] if unsolved else []) + others


def is_unsolved(fault: Fault) -> bool:
    """Whether a fault is an equation that was not solved, and that is only counted."""
    return (fault.condition, fault.response) == ("unsolved", COUNT)


def _describe_unsolved(faults: Sequence[Fault]) -> str:
    least, most = (limit(fault.updates for fault in faults) for limit in (min, max))
    times = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    networks = ", ".join(dict.fromkeys(fault.network for fault in faults))
    total = counted(max(fault.of_updates for fault in faults), "update")
    return (
        f"{times} of {total} ({networks}) left the equation unsolved: "
        "such an update may not improve every task"
    )


def group_by_task(faults: Iterable[Fault]) -> list[list[Fault]]:
    """Group faults by seed, network and condition, in their order."""
    groups: dict[tuple[int, str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.seed, fault.network, fault.condition), []).append(fault)
    return list(groups.values())
