"""Updates on a GPU: all methods in each form, precisions, sizes, seeds, and the parts of the time.

Pieces are measured in the order of their importance until the budget of `--minutes` is spent; a
piece that does not fit any more has a row that says so, and so has an update that fails. What one
piece compares is timed in interleaved rounds. Rows of updates give milliseconds, updates per second
and the ratio to `ls` in the same form, precision and size. Besides all methods there are:

* `plain_ls`: plain modules over the flat batch with one `autograd.grad`, as in `update`.
* `lean_sac`: single-task SAC in the form of LeanRL, with the same total batch.
* `torchjd_fairgrad`: plain modules with TorchJD's Jacobian engine and FairGrad.

Without a GPU only the rows that need none are measured, to test the script.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch

from . import profiling, shared_encoder, solves, tables
from .budget import Budget
from .settings import Row, Settings
from .timing import Times, interleaved, milliseconds, ratio, wait
from .variants import (
    COMPILED,
    EAGER,
    GRAPH,
    LEAN,
    METHODS,
    PLAIN,
    TORCHJD,
    LeftOut,
    Variant,
    updates,
)

SECTION = "gpu"
FAILURES = "failures"
"""Unit of a row for something that raised an error."""
SAMPLE_SECONDS, MOST_CALLS = 0.02, 25
"""Aimed duration of a sample, and the largest number of updates in it."""
SECONDS = {EAGER: 1.2, GRAPH: 1.2, COMPILED: 3.0}
"""Estimated seconds to build and time an update, by form."""
COMPILE_SECONDS, CAPTURE_SECONDS = 30.0, 2.0
"""Estimated seconds to compile for new sizes, and to capture task gradients of new sizes."""
START_SECONDS = 15.0
"""Estimated seconds in which the first piece loads CUDA's libraries and compiles the solvers."""


class Piece(NamedTuple):
    """A part of the section, measured or left out as a whole."""

    name: str
    seconds: float
    """Estimated duration."""
    rows: Callable[[Settings], Iterator[Row]]


def pieces() -> list[Piece]:
    """Return everything to measure, the most important first."""
    newton, few = "fairgrad_newton", ("ls", "fairgrad_newton", "cagrad")
    every = tuple(METHODS)
    both = ("ls", newton)

    def several(ways: tuple[str, ...], form: str = GRAPH, **sizes: object) -> list[Variant]:
        return [Variant(way, form, **sizes) for way in ways]  # pyright: ignore[reportArgumentType]

    return [
        compared("methods in a graph", several((*every, PLAIN)), START_SECONDS),
        compared(
            "TF32 and bf16", several(both, precision="tf32") + several(both, precision="bf16")
        ),
        Piece("solves", 20, partial(solves.measure, SECTION)),
        Piece("backward", 4, partial(shared_encoder.measure, SECTION)),
        parts([*several(few), Variant(newton, EAGER)]),
        compared("1,024 a task", several(both, precision="tf32", batch=1024)),
        compared("ten seeds", several(both, precision="tf32", seeds=10)),
        compared("compiled", several((*few, LEAN), COMPILED)),
        compared("eager", several((*every, PLAIN, TORCHJD), EAGER)),
        compared("MT50", several(both, tasks=50) + several(both, tasks=50, precision="tf32")),
        *(
            compared(
                f"{batch} a task, {precision}", several(both, batch=batch, precision=precision)
            )
            for batch in (512, 2048)
            for precision in ("tf32", "fp32", "bf16")
        ),
        compared("ten seeds, fp32", several(both, seeds=10)),
        compared("compiled, TF32", several(both, COMPILED, precision="tf32")),
    ]


def compared(name: str, variants: list[Variant], seconds: float = 0.0) -> Piece:
    """Return a piece that times these updates in interleaved rounds; it takes `seconds` more."""
    seconds += sum(SECONDS[variant.form] for variant in variants)
    new = {variant._replace(way=LEAN if variant.way == LEAN else "") for variant in variants}
    seconds += sum(
        COMPILE_SECONDS if variant.form == COMPILED else CAPTURE_SECONDS for variant in new
    )
    return Piece(name, seconds, partial(_times, variants))


def parts(variants: list[Variant]) -> Piece:
    """Return a piece that yields the parts of these updates' time."""

    def rows(settings: Settings) -> Iterator[Row]:
        for variant in variants:
            update = _built(variant, settings)
            if isinstance(update, Row):
                yield update._replace(name=f"{update.name}: parts")
            else:
                yield from profiling.parts(SECTION, variant.name, update, settings)

    return Piece("parts", 3 * len(variants), rows)


def measure(settings: Settings) -> Iterator[Row]:
    """Yield rows, those of a piece when it is done; Ctrl-C ends the section."""
    budget, started = Budget(60 * settings.minutes), time.monotonic()
    for piece in pieces():
        found: list[Row] = []
        interrupted = False
        elapsed = time.monotonic() - started
        print(f"{elapsed:4.0f} s  {piece.name}", file=sys.stderr, flush=True)
        try:
            if budget.spend(piece.seconds, partial(_collect, piece, settings, found)):
                _free(settings.device)
            else:
                found.append(Row(SECTION, f"left out for time: {piece.name}", piece.seconds, "s"))
        except KeyboardInterrupt:
            interrupted = True
            found.append(Row(SECTION, f"failed: interrupted at {piece.name}", 1, FAILURES))
        for row in found:
            words = f"        {row.name}: {tables.number(row.value)} {row.unit}"
            print(words, file=sys.stderr, flush=True)
        yield from found
        if interrupted:
            break
    yield Row(SECTION, "duration", time.monotonic() - started, "s")


def _collect(piece: Piece, settings: Settings, found: list[Row]) -> None:
    """Add the rows of a piece; an error leaves those before it and adds one that says so."""
    try:
        found.extend(piece.rows(settings))
    except Exception as error:
        found.append(_failure(piece.name, error))


def _failure(name: str, error: Exception) -> Row:
    traceback.print_exception(error)
    return Row(SECTION, f"failed: {name}", 1, FAILURES)


def _built(variant: Variant, settings: Settings) -> Callable[[], None] | Row:
    """Return an update, or a row that says why there is none."""
    try:
        return updates(variant, settings)
    except LeftOut as reason:
        return Row(SECTION, f"left out, {reason}: {variant.name}", 1, "updates")
    except Exception as error:
        return _failure(variant.name, error)


def _times(variants: list[Variant], settings: Settings) -> Iterator[Row]:
    """Yield times, speeds, and ratios to `ls` in the same form."""
    built = {variant: _built(variant, settings) for variant in variants}
    yield from (one for one in built.values() if isinstance(one, Row))
    work = {variant: one for variant, one in built.items() if not isinstance(one, Row)}
    times = _sampled(work, settings)
    for variant, seconds in times.items():
        yield Row(SECTION, variant.name, milliseconds(seconds), "ms")
        yield Row(SECTION, f"{variant.name}: speed", 1 / statistics.median(seconds), "updates/s")
    for variant, seconds in times.items():
        reference = variant._replace(way="ls")
        if variant != reference and reference in times:
            name = ratio_name(variant)
            yield Row(SECTION, name, ratio(seconds, times[reference]), "×")


def ratio_name(variant: Variant) -> str:
    """Return the name of the ratio to `ls` in the same form."""
    return f"{variant.name} / ls"


def _sampled(
    work: dict[Variant, Callable[[], None]], settings: Settings
) -> dict[Variant, list[float]]:
    """Return seconds of an update in each round; a sample is several updates without waiting."""
    calls = {variant: _calls(update, settings) for variant, update in work.items()}

    def sample(variant: Variant) -> None:
        for _ in range(calls[variant]):
            work[variant]()

    named: dict[str, Callable[[], None]] = {each.name: partial(sample, each) for each in work}
    times: Times = interleaved(named, settings.rounds, settings.device)
    return {each: [s / calls[each] for s in times[each.name]] for each in work}


def _calls(update: Callable[[], None], settings: Settings) -> int:
    """Return how many updates a sample has."""
    if settings.quick:
        return 1
    update()
    wait(settings.device)
    started = time.perf_counter()
    update()
    wait(settings.device)
    seconds = time.perf_counter() - started
    return min(MOST_CALLS, max(1, round(SAMPLE_SECONDS / seconds)))


def _free(device: torch.device) -> None:
    """Free the memory of a piece, graphs included."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
