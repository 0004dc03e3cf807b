"""Measure the speed of updates, simulators and whole training steps, in one table.

    python scripts/benchmark.py [--sections update simulators …] [--device cuda] [--csv FILE]
    python scripts/benchmark.py --show results/performance/cpu-2-cores.csv

On a GPU (`--device cuda`) the section `gpu` alone runs by default, for at most --minutes, and a
table compares it with the targets in `scripts/benchmarking/targets.py`. Other sections: `update`
(one whole update in several implementations, and the arithmetic floor), `tasks` (2, 10 and 50 at
the same total batch), `seeds` (1, 3 and 10 in one process), `many_tasks` (a supervised step with 40
heads), `simulators` (transitions per second), `copies` (the same by copies and workers, and how
long workers wait), `end_to_end` (a training step against the longer of
its two parts), `startup`, `launches` (of an update on a GPU, counted on any machine), and `long`
(memory over --steps vector steps), which runs only on request. The modules in
`scripts/benchmarking/` define each row.

Everything that is compared is timed in interleaved rounds, and a ratio is the median of the rounds'
ratios, so that load on the machine affects all alike. `--csv` replaces only the sections that were
measured; FILE.machine.json records the machine and commit of each section.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from benchmarking import (
    copies,
    end_to_end,
    gpu,
    launch_table,
    long_run,
    machine,
    many_tasks,
    scaling,
    simulators,
    startup,
    tables,
    targets,
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
    copies.SECTION: copies.measure,
    end_to_end.SECTION: end_to_end.measure,
    startup.SECTION: startup.measure,
    long_run.SECTION: long_run.measure,
    gpu.SECTION: gpu.measure,
    launch_table.SECTION: launch_table.measure,
}
ON_REQUEST = {long_run.SECTION, gpu.SECTION}


def usual(device: torch.device) -> list[str]:
    """Return the sections that are measured by default."""
    if device.type == "cuda":
        return [gpu.SECTION]
    return [name for name in SECTIONS if name not in ON_REQUEST]


@entry_point
def main(words: Sequence[str] | None = None) -> None:
    """Measure and print, or print a results file."""
    given = arguments(words)
    if given.show:
        print(tables.show_highlights(given.show))
        measured = tables.read_csv(given.show)
        if any(row.section == gpu.SECTION for row in measured):
            print("", *targets.lines(measured), sep="\n")
        return
    try:
        device = resolve_device(given.device)
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None
    rounds = 2 if given.quick else given.rounds
    settings = Settings(device, given.quick, rounds, given.steps, given.minutes)
    described = machine.describe(device)
    print(machine.summary(described), flush=True)
    paths = tables.kept_files(given.keep, described) if given.keep else (given.csv, given.json)
    for path in filter(None, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in given.sections or usual(device):
        measured = [tables.rounded(row) for row in SECTIONS[name](settings)]
        print("", *tables.lines(measured), sep="\n", flush=True)
        if name == gpu.SECTION and device.type == "cuda":
            print("", *targets.lines(measured), sep="\n", flush=True)
        rows += measured
    write(rows, described, *paths)
    failed = [row.name for row in rows if row.unit == gpu.FAILURES]
    if failed:
        raise SystemExit(f"error: {'; '.join(failed)}: see the tracebacks above.")


def write(rows: list[Row], described: dict[str, Any], csv: Path | None, json: Path | None) -> None:
    """Write the results to the files that are wanted."""
    if csv:
        tables.update_csv(csv, rows, described)
    if json:
        tables.write_json(json, rows, described)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        metavar="SECTION",
        help="sections to measure (default: all but long and gpu; on a GPU: gpu)",
    )
    parser.add_argument(
        "--device", default="cpu", help="device of the learner: cpu or cuda (default cpu)"
    )
    parser.add_argument("--json", type=Path, help="write rows and machine to this file")
    parser.add_argument("--csv", type=Path, help="update the measured sections of this file")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="write both files to this folder, named after the GPU or the processor",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=15,
        help="rounds, fewer for work that takes seconds (default 15)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=3.5,
        help="longest duration of the section gpu, which leaves out the least important rows "
        "(default 3.5)",
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
