"""What sets our fits apart from those behind the paper's tables, in sentences."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from mtrl_fairgrad.gradients.conventions import CONVENTIONS
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.compare import ResultRow
from mtrl_fairgrad.supervised.paper_numbers import SEEDS
from mtrl_fairgrad.supervised.stored_fits import FitGroup

OFFICIAL = "official_supervised"
SHAPED = ("fairgrad", "cagrad", "pcgrad")
"""Methods that the paper's code runs under that convention; with its others it makes little or no
difference.
"""


def deviations(ours: Iterable[tuple[FitGroup, ResultRow]], benchmark: Benchmark) -> list[str]:
    """A sentence for the rows that deviate in the same way: in seeds, schedule, options, precision,
    convention, solver.

    Args:
        ours: what was asked, and the row that came of it.
        benchmark: whose schedule and options are the paper's.
    """
    found: dict[str, list[str]] = {}
    for group, row in ours:
        settings = _settings(group, len(row.results), benchmark)
        words = [
            f"{name} {here} in place of {there}" for name, here, there in settings if here != there
        ]
        found.setdefault(", ".join(words), []).append(row.label)
    if list(found) == [""]:
        return ["Number of seeds, schedule and options are the paper's."]
    whose = {
        words: "" if len(found) == 1 else f" for {', '.join(labels)}"
        for words, labels in found.items()
    }
    return [f"Not as in the paper{whose[words]}: {words}." for words in found if words]


def _settings(
    group: FitGroup, seeds: int, benchmark: Benchmark
) -> Iterator[tuple[str, object, object]]:
    """Name, our value and the paper's."""
    yield "seeds", seeds, SEEDS
    for name, value in json.loads(
        json.dumps(asdict(benchmark.schedule))
    ).items():  # as in the file: tuples are lists
        yield name, group.options.get(f"schedule.{name}"), value
    for name, parameter in inspect.signature(type(benchmark).__init__).parameters.items():
        if name not in ("self", "root"):
            yield name, group.options.get(f"benchmark.{name}", parameter.default), parameter.default
    if group.options.get("amp"):
        yield "precision", "bfloat16", "float32"
    if group.method in SHAPED:
        yield "convention", _convention(group), OFFICIAL
    if group.method == "fairgrad":
        yield "solver", group.options.get("method.solver"), "least_squares"


def _convention(group: FitGroup) -> str:
    """The preset's name, or what it consists of."""
    keys = ("own", "scale", "max_norm")
    chosen = [group.options.get(f"convention.{key}") for key in keys]
    names = (
        name
        for name, preset in CONVENTIONS.items()
        if [getattr(preset, key) for key in keys] == chosen
    )
    return next(names, " ".join(f"{key}={value}" for key, value in zip(keys, chosen, strict=True)))
