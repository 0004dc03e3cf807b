"""Measure what a training step of each run of a set costs.

    python scripts/measure_steps.py SET [--out results/mt10] [--rounds 15]

The trainings of a set share a machine with other work, so their wall-clock times are no
comparison. This script makes a learner from the configuration of each run in SET and simulators for
all of them, in one process, and times whole steps (acting, simulation, updates) in interleaved
rounds, by processor time on one thread. It writes OUT/SET.costs.csv: run, milliseconds of a step
that gathers `env.copies` transitions of each task, and the ratio to the run `ls`. `publish.py`
compares the methods at equal time with these ratios.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from benchmarking.runs import begin, training  # noqa: E402
from benchmarking.timing import interleaved, milliseconds, ratio  # noqa: E402
from publish import REFERENCE, runs_of  # noqa: E402

from mtrl_fairgrad.config.env import task_names  # noqa: E402
from mtrl_fairgrad.config.schema import Config, from_stored  # noqa: E402
from mtrl_fairgrad.runs.run_dir import RunFolder  # noqa: E402
from mtrl_fairgrad.training import loop  # noqa: E402
from mtrl_fairgrad.training.trainer import Trainer  # noqa: E402
from mtrl_fairgrad.utils.arguments import fail  # noqa: E402
from mtrl_fairgrad.utils.atomic_io import write_atomic  # noqa: E402
from mtrl_fairgrad.utils.entry_point import entry_point  # noqa: E402
from mtrl_fairgrad.utils.text_tables import csv_report  # noqa: E402

COLUMNS = ("run", "milliseconds", "cost")
STEPS = 10
"""Training steps of each run in a round."""


@entry_point
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the set of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", type=Path, metavar="SET")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mt10")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    try:
        rows = measure(options.set, options.rounds)
        path = options.out / f"{options.set.resolve().name}.costs.csv"
        write_atomic(path, csv_report([COLUMNS, *rows]).encode())
    except (ValueError, OSError) as error:
        return fail(error)
    print(path.read_text(), end="")
    return 0


def measure(source: Path, rounds: int) -> list[tuple[str, str, str]]:
    """Return the rows of the file.

    Raises:
        ValueError: there is no run of the name `REFERENCE`.
        RunFolderError: a run is missing or damaged.
    """
    runs = runs_of(source)
    if REFERENCE not in [run.name for run in runs]:
        raise ValueError(
            f"{source} has no run {REFERENCE}, which the others are compared with: give a set that "
            "has one."
        )
    configs = {run.name: _configuration(run) for run in runs}
    with training(configs[REFERENCE]) as trainer:
        work: dict[str, Callable[[], None]] = {}
        for name, config in configs.items():
            begin(trainer, config)
            work[name] = _steps(trainer)
        times = interleaved(work, rounds, torch.device("cpu"), clock=time.process_time)
    return [
        (
            name,
            f"{milliseconds(seconds) / STEPS:.2f}",
            f"{ratio(seconds, times[REFERENCE]):.3f}",
        )
        for name, seconds in times.items()
    ]


def _configuration(run: Path) -> Config:
    """Return a run's configuration, for one process on one thread and with a short warm-up."""
    config = from_stored(RunFolder.open(run).config, run)
    config.env.tasks = list(task_names(config.env))
    config.device, config.threads, config.progress, config.logger = "cpu", 1, False, []
    config.env.workers = config.eval.workers = 0
    config.agent.warmup_steps = config.agent.batch_size
    config.agent.buffer_size = 10 * config.agent.batch_size
    return config


def _steps(trainer: Trainer) -> Callable[[], None]:
    """Return a function that makes `STEPS` training steps with the present learner."""
    config, learner = trainer.config, trainer.learner

    def steps() -> None:
        trainer.config, trainer.learner = config, learner
        for _ in range(STEPS):
            loop.step(trainer)

    return steps


if __name__ == "__main__":
    sys.exit(main())
