"""Measure the speed of updates, simulators and whole training steps, in one table.

    python scripts/benchmark.py [--sections update simulators …] [--device cuda] [--csv FILE]
    python scripts/benchmark.py --show results/performance/cpu-2-cores.csv

Sections: `update` (one whole update in several implementations, and the arithmetic floor), `tasks`
(2, 10 and 50 at the same total batch), `seeds` (1, 3 and 10 in one process), `many_tasks` (a
supervised step with 40 heads), `simulators` (transitions per second), `end_to_end` (a training step
against the longer of its two parts), `startup`, and `long` (memory over --steps vector steps),
which runs only on request. The modules in `scripts/benchmarking/` define each row.

Everything that is compared is timed in interleaved rounds, and a ratio is the median of the rounds'
ratios, so that load on the machine affects all alike. `--csv` replaces only the sections that were
measured; FILE.machine.json records the machine and commit of each section.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarking import (
    end_to_end,
    long_run,
    machine,
    many_tasks,
    scaling,
    simulators,
    startup,
    tables,
    update,
)
from benchmarking.settings import Row, Settings

from mtrl_fairgrad.config.schema import ConfigError
from mtrl_fairgrad.utils.device import resolve_device
from mtrl_fairgrad.utils.entry_point import entry_point

SECTIONS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    update.SECTION: update.measure,
    "tasks": scaling.tasks,
    many_tasks.SECTION: many_tasks.measure,
    "seeds": scaling.seeds,
    simulators.SECTION: simulators.measure,
    end_to_end.SECTION: end_to_end.measure,
    startup.SECTION: startup.measure,
    long_run.SECTION: long_run.measure,
}
USUAL = [name for name in SECTIONS if name != long_run.SECTION]


@entry_point
def main(words: Sequence[str] | None = None) -> None:
    """Measure and print, or print a results file."""
    given = arguments(words)
    if given.show:
        print(tables.show_highlights(given.show))
        return
    try:
        device = resolve_device(given.device)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    settings = Settings(device, given.quick, 2 if given.quick else given.rounds, given.steps)
    described = machine.describe(device)
    print(machine.summary(described), flush=True)
    rows: list[Row] = []
    for name in given.sections:
        measured = [tables.rounded(row) for row in SECTIONS[name](settings)]
        print("", *tables.lines(measured), sep="\n", flush=True)
        rows += measured
    if given.json:
        tables.write_json(given.json, rows, described)
    if given.csv:
        tables.update_csv(given.csv, rows, described)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        default=USUAL,
        metavar="SECTION",
        help="sections to measure (default: all but long)",
    )
    parser.add_argument(
        "--device", default="cpu", help="device of the learner: cpu or cuda (default cpu)"
    )
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    parser.add_argument("--csv", type=Path, help="update the measured sections of this file")
    parser.add_argument(
        "--rounds",
        type=int,
        default=15,
        help="rounds, fewer for work that takes seconds (default 15)",
    )
    parser.add_argument(
        "--steps", type=int, default=100_000, help="vector steps of the long run (default 100000)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smallest sizes, to test the script",
    )
    parser.add_argument(
        "--show",
        type=Path,
        metavar="CSV",
        help="measure nothing, print a results file as docs/performance.md shows it",
    )
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
