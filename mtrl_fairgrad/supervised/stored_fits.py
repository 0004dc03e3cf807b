"""The folders of supervised fits, read back: which there are, what each was asked, and which belong
together.

`mtrl_fairgrad.supervised.trainer` says what is in such a folder. Nothing here imports a benchmark
or PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtrl_fairgrad.analysis.run_groups import ReportError, flatten
from mtrl_fairgrad.utils.safe_load import read_mapping

_PLACES = ("fit.json", "*/fit.json", "*/*/fit.json")
"""A fit's own folder, a method's with its seeds, a run's with its methods."""


def fit_folders(path: str | Path) -> list[Path]:
    """The folders of fits in a run's folder, a method's, or a fit's own; empty if there are none."""
    return sorted(file.parent for place in _PLACES for file in Path(path).glob(place))


@dataclass(frozen=True)
class Fit:
    """One fit's folder."""

    path: Path
    spec: dict[str, Any]
    """As in fit.json: benchmark, method, loss_alpha, convention, schedule, amp and seed."""
    result: dict[str, Any] | None
    """As in outcome.json; None while there is none."""

    @classmethod
    def read(cls, path: Path) -> Fit:
        """A fit of a folder with fit.json; `ReportError` if a file is broken."""
        spec = _mapping(
            path / "fit.json", ("benchmark", "method", "schedule", "convention", "seed")
        )
        done = path / "outcome.json"
        return cls(
            path, spec, _mapping(done, ("metrics", "validation")) if done.is_file() else None
        )

    @property
    def seed(self) -> int:
        """What it was seeded with."""
        return self.spec["seed"]

    @property
    def task(self) -> int | None:
        """The one task that it trained, None if all."""
        return self.spec["method"].get("task") if self.spec["method"]["name"] == "stl" else None

    def common(self) -> dict[str, Any]:
        """Its spec without the seed, and without the one task: dotted names."""
        flat = {key: value for key, value in flatten(self.spec).items() if key != "seed"}
        return {
            key: value for key, value in flat.items() if self.task is None or key != "method.task"
        }


@dataclass
class FitGroup:
    """Finished fits of one question; of single-task fits, those of all tasks."""

    options: dict[str, Any]
    """What all were asked, by dotted names."""
    fits: dict[tuple[int, int | None], Fit]
    """By seed and single task."""
    label: str = ""

    @property
    def method(self) -> str:
        """Its method's name."""
        return self.options["method.name"]


def read_fits(paths: Iterable[str | Path]) -> list[Fit]:
    """All fits of the folders given, each once, those of one benchmark.

    Raises:
        ReportError: a folder without fits, fits of several benchmarks, or a broken file.
    """
    found: dict[Path, Fit] = {}
    for path in paths:
        folders = fit_folders(path)
        if not folders:
            raise ReportError(
                f"{path} holds no supervised fits (fit.json): give the folder that the command "
                "wrote to."
            )
        found |= {folder.resolve(): Fit.read(folder) for folder in folders}
    homes = {fit.spec["benchmark"]["name"]: fit.path for fit in found.values()}
    if len(homes) > 1:
        (one, here), (other, there), *_ = homes.items()
        raise ReportError(
            f"{here} is of {one} but {there} of {other}: report on one benchmark at a time."
        )
    return list(found.values())


def pool_fits(fits: Iterable[Fit]) -> list[FitGroup]:
    """The finished ones, those of one question together, each group with a label of its own: stl,
    ls, then the others.

    Raises:
        ReportError: none is finished, or the same seed of the same spec has two results.
    """
    groups: dict[str, FitGroup] = {}
    for fit in fits:
        if fit.result is None:
            continue
        group = groups.setdefault(
            json.dumps(fit.common(), sort_keys=True), FitGroup(fit.common(), {})
        )
        twin = group.fits.setdefault((fit.seed, fit.task), fit)
        if twin.result is not None and twin.result["metrics"] != fit.result["metrics"]:
            raise ReportError(
                f"{twin.path} and {fit.path} are fits of the same spec and seed that differ: "
                "leave one out."
            )
    if not groups:
        raise ReportError(
            "no fit here is finished yet: give the command that wrote them again, with its run_dir."
        )
    _name(list(groups.values()))
    return sorted(groups.values(), key=_order)


def _name(groups: list[FitGroup]) -> None:
    """Label each group by method, α and loss transformation, and by what else sets it apart from
    its namesakes.
    """
    for group in groups:
        fair = "" if group.options.get("loss_alpha") is None else "fair "
        alpha = (
            f" α={group.options['method.alpha']:.10g}" if "method.alpha" in group.options else ""
        )
        group.label = f"{fair}{group.method}{alpha}"
    for label in {group.label for group in groups}:
        alike = [group for group in groups if group.label == label]
        keys = sorted({key for group in alike for key in group.options if _differs(key, alike)})
        for group in alike if keys else ():
            words = [
                f"{key.removeprefix('method.').removeprefix('schedule.')}={group.options.get(key)}"
                for key in keys
            ]
            group.label = f"{label} ({', '.join(words)})"


def _order(group: FitGroup) -> tuple[Any, ...]:
    return (
        group.method != "stl",
        group.method != "ls",
        group.method,
        group.options.get("method.alpha", 0.0),
        group.label,
    )


def _differs(key: str, groups: list[FitGroup]) -> bool:
    return any(group.options.get(key) != groups[0].options.get(key) for group in groups)


def _mapping(file: Path, keys: Iterable[str]) -> dict[str, Any]:
    try:
        found = read_mapping(file)
    except (OSError, ValueError) as error:
        raise ReportError(
            f"{file} cannot be read ({error}): delete the fit's folder and run it again."
        ) from error
    missing = [key for key in keys if key not in found]
    if missing:
        raise ReportError(
            f"{file} lacks {', '.join(missing)}: delete the fit's folder and run it again."
        )
    return found
