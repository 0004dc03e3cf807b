"""How fast everything is, in one table.

    python scripts/benchmark.py [--sections update simulators …] [--device cuda] [--json FILE]
    [--csv FILE] python scripts/benchmark.py --show results/performance/cpu-2-cores.csv

Sections: `update` (one whole update, several ways and against the arithmetic floor), `tasks` (2,
10, 50 at the same total batch), `seeds` (1, 3, 10 side by side), `simulators` (transitions per
second), `end_to_end` (a training step against its longer half), `startup`, and `long` (is memory
flat over --steps vector steps?), which is left out unless asked for. The modules in
`scripts/benchmarking/` say what each row is.

What is compared is timed in rounds that take turns, and a ratio is the median of the rounds'
ratios, so that a noisy machine disturbs all alike. `--csv` replaces only the sections that were
measured and notes the machine and commit of each beside it, in FILE.machine.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarking import end_to_end, long_run, machine, scaling, simulators, startup, tables, update
from benchmarking.settings import Row, Settings

from mtrl_fairgrad.config.schema import ConfigError
from mtrl_fairgrad.utils.device import resolve_device

SECTIONS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    update.SECTION: update.measure,
    "tasks": scaling.tasks,
    "seeds": scaling.seeds,
    simulators.SECTION: simulators.measure,
    end_to_end.SECTION: end_to_end.measure,
    startup.SECTION: startup.measure,
    long_run.SECTION: long_run.measure,
}
USUAL = [name for name in SECTIONS if name != long_run.SECTION]


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print, or show what was kept."""
    given = arguments(words)
    if given.show:
        print(tables.shown(given.show))
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
        tables.keep(given.csv, rows, described)


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
        help="see above",
    )
    parser.add_argument("--device", default="cpu", help="the learner's: cpu or cuda (default cpu)")
    parser.add_argument("--json", type=Path, help="write rows and machine there")
    parser.add_argument("--csv", type=Path, help="keep the rows in this file")
    parser.add_argument(
        "--rounds", type=int, default=15, help="rounds, fewer where work takes seconds (default 15)"
    )
    parser.add_argument(
        "--steps", type=int, default=100_000, help="vector steps of the long run (default 100000)"
    )
    parser.add_argument("--quick", action="store_true", help="everything tiny, to see that it runs")
    parser.add_argument(
        "--show",
        type=Path,
        metavar="CSV",
        help="measure nothing, print a results file as docs/performance.md shows it",
    )
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
