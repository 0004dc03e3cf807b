"""Sentences on how our fits differ from those behind the paper's tables."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from mtrl_fairgrad.gradients.conventions import CONVENTIONS
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.paper_numbers import SEEDS
from mtrl_fairgrad.supervised.result_table import ResultRow
from mtrl_fairgrad.supervised.stored_fits import FitGroup

OFFICIAL = "official_supervised"
CONVENTION_METHODS = ("fairgrad", "cagrad", "pcgrad")
"""Methods that the paper's code runs under the convention `OFFICIAL`.

For the others it makes little or no difference.
"""


def deviations(rows: Iterable[tuple[FitGroup, ResultRow]], benchmark: Benchmark) -> list[str]:
    """List what differs from the paper: seeds, schedule, options, precision, convention, solver.

    Args:
        rows: fits and the row made of them.
        benchmark: the benchmark, whose schedule and default options are the paper's.

    Returns:
        One sentence for all rows with the same differences, or one that there are none.
    """
    labels: dict[str, list[str]] = {}
    for group, row in rows:
        settings = _settings(group, len(row.results), benchmark)
        differences = [
            f"{name} {ours} in place of {paper}" for name, ours, paper in settings if ours != paper
        ]
        labels.setdefault(", ".join(differences), []).append(row.label)
    if list(labels) == [""]:
        return ["Number of seeds, schedule and options are the paper's."]
    sentences: list[str] = []
    for text, same in labels.items():
        if text:
            rows_named = "" if len(labels) == 1 else f" for {', '.join(same)}"
            sentences.append(f"Not as in the paper{rows_named}: {text}.")
    return sentences


def _settings(
    group: FitGroup, seeds: int, benchmark: Benchmark
) -> Iterator[tuple[str, object, object]]:
    """Yield the name, our value and the paper's value of each setting."""
    yield "seeds", seeds, SEEDS
    schedule = json.loads(json.dumps(asdict(benchmark.schedule)))  # tuples become lists, as stored
    for name, value in schedule.items():
        yield name, group.options.get(f"schedule.{name}"), value
    for name, parameter in inspect.signature(type(benchmark).__init__).parameters.items():
        if name not in ("self", "root"):
            yield name, group.options.get(f"benchmark.{name}", parameter.default), parameter.default
    if group.options.get("amp"):
        yield "precision", "bfloat16", "float32"
    if group.method in CONVENTION_METHODS:
        yield "convention", _convention(group), OFFICIAL
    if group.method == "fairgrad":
        yield "solver", group.options.get("method.solver"), "least_squares"


def _convention(group: FitGroup) -> str:
    """Return the name of the preset, or the options of a convention that is not a preset."""
    keys = ("own", "scale", "max_norm")
    chosen = [group.options.get(f"convention.{key}") for key in keys]
    for name, preset in CONVENTIONS.items():
        if [getattr(preset, key) for key in keys] == chosen:
            return name
    return " ".join(f"{key}={value}" for key, value in zip(keys, chosen, strict=True))
