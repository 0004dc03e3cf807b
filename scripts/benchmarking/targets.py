"""Targets for an H100 or H200 at the paper's size, and how measured rows of `gpu` compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mtrl_fairgrad.utils.text_tables import text_table

from . import gpu, shared_encoder, solves
from .settings import Row
from .variants import COMPILED, GRAPH, METHODS, Variant


class Target(NamedTuple):
    """A bound on measured rows."""

    name: str
    bound: float
    at_most: bool
    rows: tuple[tuple[str, ...], ...]
    """Names of rows. The best row of each inner tuple counts, and of those the worst."""

    def value(self, measured: dict[str, float]) -> float | None:
        """Return the number that is compared with the bound; None if a row is missing."""
        best, worst = (min, max) if self.at_most else (max, min)
        choices = [[measured[row] for row in rows if row in measured] for rows in self.rows]
        return worst(map(best, choices)) if all(choices) else None

    def verdict(self, measured: dict[str, float]) -> str:
        """Return `met`, `missed` or `not measured`."""
        value = self.value(measured)
        if value is None:
            return "not measured"
        return "met" if (value <= self.bound if self.at_most else value >= self.bound) else "missed"


FORMS = (GRAPH, COMPILED)


def speeds(way: str, **sizes: object) -> tuple[str, ...]:
    """Return the names of the speeds in each form that replays graphs."""
    variants = (Variant(way, form, **sizes) for form in FORMS)  # pyright: ignore[reportArgumentType]
    return tuple(f"{variant.name}: speed" for variant in variants)


NEWTON = "fairgrad_newton"
TARGETS = (
    Target(
        "FairGrad (newton) / LS in a graph, ×",
        1.10,
        True,
        ((gpu.ratio_name(Variant(NEWTON, GRAPH)),),),
    ),
    Target(
        "FairGrad (newton) / LS in a compiled graph, ×",
        1.10,
        True,
        ((gpu.ratio_name(Variant(NEWTON, COMPILED)),),),
    ),
    Target("128 a task, TF32, updates/s", 1200, False, (speeds(NEWTON, precision="tf32"),)),
    Target(
        "1,024 a task, TF32, updates/s",
        800,
        False,
        (speeds(NEWTON, precision="tf32", batch=1024),),
    ),
    Target(
        "ten seeds, updates/s of all",
        300,
        False,
        ((*speeds(NEWTON, precision="tf32", seeds=10), *speeds(NEWTON, seeds=10)),),
    ),
    Target("slowest method, updates/s", 600, False, tuple(speeds(way) for way in METHODS)),
    *(
        Target(
            f"solve of {tasks} tasks, µs",
            bound,
            True,
            ((solves.name("newton, kernel", tasks, 1),),),
        )
        for tasks, bound in ((10, 60), (50, 250))
    ),
    Target("backward, FairGrad's own share, ms", 0.3, True, ((shared_encoder.OWN_SHARE,),)),
)


def lines(rows: Iterable[Row]) -> list[str]:
    """Compare rows with all targets; return a table."""
    measured = {row.name: row.value for row in rows if row.section == gpu.SECTION}
    table = [("target", "bound", "measured", "")]
    for target in TARGETS:
        value = target.value(measured)
        table.append(
            (
                target.name,
                f"{'≤' if target.at_most else '≥'} {target.bound:g}",
                "–" if value is None else f"{value:.4g}",
                target.verdict(measured),
            )
        )
    return text_table(table)
