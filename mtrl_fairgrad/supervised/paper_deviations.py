"""Sentences on how our fits differ from those behind the paper's tables.

What the paper does not say is taken from its code and scripts (github.com/OptMN-Lab/fairgrad), and
those of FAMO (github.com/Cranial-XIX/FAMO), whose results it repeats.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from mtrl_fairgrad.gradients.conventions import CONVENTIONS, Convention
from mtrl_fairgrad.gradients.official import OFFICIAL, OFFICIAL_METHODS, official_convention
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.paper_numbers import SEEDS
from mtrl_fairgrad.supervised.result_table import ResultRow
from mtrl_fairgrad.supervised.stored_fits import FitGroup
from mtrl_fairgrad.weighting import LossWeighting, Method, make_method, method_options

FAMO_GAMMA = {"nyuv2": 0.001, "celeba": 0.001, "qm9": 0.001, "cityscapes": 0.01}
"""Benchmark → weight decay of FAMO's logits in its scripts."""
CHOSEN_OPTIONS = ("alpha", "reduction", "task")
"""Options of methods that are no difference: searched, without effect, or one of all tasks."""
METHOD_DIFFERENCES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "cagrad": (("solution", "exact", "SLSQP's"),),
    "mgda": (("solution", "exact", "a projected gradient descent's"),),
    "nash_mtl": (("solution", "exact", "that of 20 convex programmes at most"),),
    "dwa": (("first change of the weights", "at update 50", "at update 27"),),
    "moco": (("code", "ours", "its authors', since the paper's has no moco"),),
    "uw": (("learning rate of the log variances", "constant", "scheduled"),),
}
"""Method → name, ours and the paper's of what no option changes."""
PAPER_SCHEDULE: dict[str, dict[str, Any]] = {"qm9": {"plateau_threshold": 1e-4}}
"""Benchmark → what the paper's code has in place of the benchmark's own schedule."""
PAPER_BENCHMARK: dict[str, dict[str, Any]] = {
    "nyuv2": {"averaging": "batches"},
    "cityscapes": {"averaging": "batches"},
    "qm9": {"standardise": "all"},
}
"""Benchmark → what the paper's code has in place of the benchmark's default options."""


def deviations(rows: Iterable[tuple[FitGroup, ResultRow]], benchmark: Benchmark) -> list[str]:
    """List what differs from the paper.

    These are seeds, schedule, options, precision, convention, solver, and what no option changes.

    Args:
        rows: fits and the row made of them.
        benchmark: the benchmark, whose schedule and default options are the paper's.

    Returns:
        One sentence for what all rows have in common, one for all rows with the same further
        differences, or one that there are none.
    """
    labels: dict[str, list[str]] = {}
    found = [(row.label, _differences(group, row, benchmark)) for group, row in rows]
    common = [text for text in found[0][1] if all(text in texts for _, texts in found)]
    if len(found) == 1:
        common = []
    for label, texts in found:
        text = ", ".join(text for text in texts if text not in common)
        labels.setdefault(text, []).append(label)
    if not common and list(labels) == [""]:
        return ["Number of seeds, schedule and options are the paper's."]
    sentences: list[str] = []
    for text, same in labels.items():
        if text:
            rows_named = "" if len(labels) == 1 else f" for {', '.join(same)}"
            sentences.append(f"Not as in the paper{rows_named}: {text}.")
    if common:
        sentences.append(f"Not as in the paper, for all rows: {', '.join(common)}.")
    return sentences


def _differences(group: FitGroup, row: ResultRow, benchmark: Benchmark) -> list[str]:
    """Describe what differs for the fits of a row."""
    return [
        f"{name} {ours} in place of {paper}"
        for name, ours, paper in _settings(group, len(row.results), benchmark)
        if ours != paper
    ]


def _settings(
    group: FitGroup, seeds: int, benchmark: Benchmark
) -> Iterator[tuple[str, object, object]]:
    """Yield the name, our value and the paper's value of each setting."""
    yield "seeds", seeds, SEEDS
    schedule: dict[str, Any] = json.loads(
        json.dumps(asdict(benchmark.schedule))
    )  # tuples become lists, as stored
    schedule |= {"keep_last_batch": True, **PAPER_SCHEDULE.get(benchmark.name, {})}
    unset = {"keep_last_batch": False, "plateau_threshold": 0.0}  # what null means
    for name, value in schedule.items():
        paper = unset.get(name) if value is None else value
        yield name, group.options.get(f"schedule.{name}", unset.get(name)), paper
    options = PAPER_BENCHMARK.get(benchmark.name, {})
    for name, parameter in inspect.signature(type(benchmark).__init__).parameters.items():
        if name not in ("self", "root"):
            ours = group.options.get(f"benchmark.{name}", parameter.default)
            yield name, ours, options.get(name, parameter.default)
    if group.options.get("amp"):
        yield "precision", "bfloat16", "float32"
    if group.options.get("representation"):
        yield "gradients", "of the representation", "of the shared parameters"
    if group.method in OFFICIAL_METHODS:
        yield from _convention(group)
        for name, value in _paper_options(group.method, benchmark).items():
            yield name, group.options.get(f"method.{name}", value), value
    yield from METHOD_DIFFERENCES.get(group.method, ())


def _paper_options(method: str, benchmark: Benchmark) -> dict[str, Any]:
    """Return the options of a method in the paper's code, without the chosen ones."""
    options: dict[str, Any] = method_options(method)
    if method == "fairgrad":
        options = {"solver": "least_squares"}  # the others belong to other solvers
    if method == "famo":
        options["gamma"] = FAMO_GAMMA.get(benchmark.name, options["gamma"])
    return {name: value for name, value in options.items() if name not in CHOSEN_OPTIONS}


def _convention(group: FitGroup) -> Iterator[tuple[str, object, object]]:
    """Yield the name of our convention and the official one, unless both have the same effect."""
    method = _method(group)
    keys = ("own", "scale", "max_norm")
    ours = Convention(*(group.options.get(f"convention.{key}") for key in keys))  # pyright: ignore[reportArgumentType]
    if _effect(ours, method) == _effect(official_convention(method), method):
        return
    presets = [name for name, preset in CONVENTIONS.items() if preset == ours]
    words = [f"{key}={getattr(ours, key)}" for key in keys]
    yield "convention", presets[0] if presets else " ".join(words), OFFICIAL


def _method(group: FitGroup) -> Method:
    reduction = group.options.get("method.reduction")
    return make_method(group.method, **({} if reduction is None else {"reduction": reduction}))


def _effect(convention: Convention, method: Method) -> tuple[str, str, float | None]:
    """Return the options of a convention such that those with the same effect are equal."""
    by_losses = isinstance(method, LossWeighting)
    own = convention.own
    if own == "weighted_losses":
        own = "weighted" if by_losses else "plain"
    of_one = method.name in ("ls", "stl") and getattr(method, "reduction", "sum") == "sum"
    if of_one or method.name == "graddrop":  # weights 1, 0 that counts as no gradient, or none
        own = "plain"
    scale = convention.scale
    if (method.name, scale, own) == ("ls", "tasks", "plain"):  # of the mean: both are the sum's
        own, scale = "weighted", "tasks_and_own"
    return own, scale, convention.max_norm
