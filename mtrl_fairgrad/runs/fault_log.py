"""What went wrong in a run's updates, and what was done about it: as sentences and as
incidents.csv.

The agent counts (`agents.guard`), in its own state; the file is what it had counted at the last
checkpoint or, when the run was stopped by a fault, then (`mtrl_fairgrad.training.fault_monitor`).
Reading needs no PyTorch.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from mtrl_fairgrad.config.guard import CHECKS, SEED_CONDITIONS, GuardConfig
from mtrl_fairgrad.utils.text_tables import counted, csv_text

NAME = "incidents.csv"
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
WORDS = {
    "non_finite": "a loss or gradient was not finite",
    "unsolved": "the method's equation was not solved",
    "vanished_gradient": "a gradient had vanished",
    "exploding_value": "Q was beyond guard.largest_value",
    "dead_temperature": "the entropy coefficient was below guard.smallest_temperature",
}
DONE = {
    "count": "counted",
    "ls": "these updates gave all tasks equal weights",
    "skip": "these updates were left out",
    "stop": "learning ended there",
}
"""What the answers did."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One condition of one task of one seed."""

    network: str
    """critic or actor."""
    condition: str
    """One of `config.guard.CONDITIONS`."""
    seed: int
    task: str
    """Empty for what belongs to all of a seed's tasks."""
    updates: int
    """In how many updates."""
    of_updates: int
    """Of how many."""
    first_update: int
    """In which first, from 0."""
    answer: str


def listed(
    counts: Sequence[Any],
    first: Sequence[Any],
    updates: int,
    seeds: Sequence[int],
    tasks: Sequence[str],
    guard: GuardConfig,
) -> list[Fault]:
    """All faults of `updates` updates; `agents.guard.FaultCounts` has the others, here nested
    lists `[C][S][K]`.
    """
    found: list[Fault] = []
    for n, (network, condition) in enumerate(CHECKS):
        answer = getattr(guard, condition)
        for s, seed in enumerate(seeds):
            for k, task in enumerate(tasks[:1] if condition in SEED_CONDITIONS else tasks):
                if counts[n][s][k]:
                    name = "" if condition in SEED_CONDITIONS else task
                    times = counts[n][s][k], updates, first[n][s][k]
                    found.append(Fault(network, condition, seed, name, *times, answer))
    return found


def encoded(faults: Iterable[Fault]) -> bytes:
    """The content of incidents.csv."""
    return csv_text([COLUMNS, *map(astuple, faults)]).encode()


def read(folder: Path) -> list[Fault]:
    """Those of a run folder; none where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return []
    try:
        header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
        if tuple(header) != COLUMNS:
            raise ValueError
        return [
            Fault(network, condition, int(seed), task, int(updates), int(of), int(first), answer)
            for network, condition, seed, task, updates, of, first, answer in rows
        ]
    except ValueError:
        raise ValueError(f"{path} is damaged: remove it, and the report goes without it.") from None


def sentence(faults: Sequence[Fault]) -> str:
    """One for faults that differ in task alone."""
    one = faults[0]
    tasks = ", ".join(each.task for each in faults if each.task)
    where = f"seed {one.seed}" + (f", {tasks}" if tasks else "")
    times, first = (
        max(each.updates for each in faults),
        min(each.first_update for each in faults),
    )
    what, done = WORDS.get(one.condition, one.condition), DONE.get(one.answer, one.answer)
    of = counted(one.of_updates, "update")
    return f"{where}: {one.network}: {what} in {times:,} of {of}, first in update {first:,}; {done}"


def together(faults: Iterable[Fault]) -> list[list[Fault]]:
    """Those that differ in task and numbers alone, in lists; in their order."""
    found: dict[tuple[int, str, str], list[Fault]] = {}
    for one in faults:
        found.setdefault((one.seed, one.network, one.condition), []).append(one)
    return list(found.values())
