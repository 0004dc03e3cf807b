"""Find the runs below a folder, such as a sweep's, and choose those that one report can show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mtrl_fairgrad.analysis.run_groups import pool, run_key
from mtrl_fairgrad.runs.run_dir import RunFolder

MAX_DEPTH = 4
"""Levels of folders below the given one that are searched."""


def folders_below(
    parent: Path, holds_run: Callable[[Path], bool], depth: int = MAX_DEPTH
) -> Iterator[Path]:
    """Yield the folders below `parent` that hold a run, sorted; runs contain no other runs.

    Hidden folders, links and folders that cannot be read are skipped.
    """
    try:
        children = sorted(path for path in parent.iterdir() if path.is_dir())
    except OSError:
        return
    for child in children:
        if child.name.startswith(".") or child.is_symlink():
            continue
        if holds_run(child):
            yield child
        elif depth > 1:
            yield from folders_below(child, holds_run, depth - 1)


def reportable(paths: Sequence[Path], until: int | None) -> tuple[list[Path], list[str]]:
    """Choose the training runs that one report can show, the newest of equal ones.

    Args:
        paths: folders that nobody named, each with a config.yaml of any origin.
        until: last env_steps to include.

    Returns:
        the chosen folders in the given order, and a note for each of the others.
    """
    notes: list[str] = []
    runs: list[tuple[RunFolder, list[int]]] = []
    for path in paths:
        try:
            run = RunFolder.open(path)
            if not all(isinstance(run.config.get(key), dict) for key in ("env", "method")):
                notes.append(f"{path} is left out: its config.yaml is not a run's.")
                continue
            [group] = pool([run], until)
        except ValueError as error:
            notes.append(f"{path} is left out: {error}")
            continue
        runs.append((run, group.seeds))
    seeds_of: dict[object, dict[int, Path]] = {}
    chosen: list[Path] = []
    runs.sort(key=lambda found: str(found[0].manifest.get("started")), reverse=True)
    for run, seeds in runs:
        taken = seeds_of.setdefault(run_key(run, until), {})
        if twice := sorted(taken.keys() & seeds):
            newer = taken[twice[0]]
            notes.append(f"{run.path} is left out: {newer} is newer and has seed {twice[0]}, too.")
            continue
        taken |= dict.fromkeys(seeds, run.path)
        chosen.append(run.path)
    return sorted(chosen, key=list(paths).index), notes
