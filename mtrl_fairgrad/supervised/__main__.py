"""Run a supervised benchmark: `python -m mtrl_fairgrad.supervised benchmark=digits alpha=2`.

`compare=all`, `compare=fair` and `compare=alpha` make tables of many methods, `compare=search`
searches for the best α; `--help` lists all options.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from omegaconf import DictConfig

from mtrl_fairgrad.cli.hydra_main import Command, given_overrides, run_with_hydra
from mtrl_fairgrad.cli.multirun import assign_folder
from mtrl_fairgrad.supervised.config import SupervisedConfig, from_hydra, make_benchmark, make_toy
from mtrl_fairgrad.utils.arguments import fail, override
from mtrl_fairgrad.utils.atomic_io import remedy
from mtrl_fairgrad.utils.device import resolve_device
from mtrl_fairgrad.utils.entry_point import entry_point, output_failed, output_fault
from mtrl_fairgrad.utils.faults import TrainingFault
from mtrl_fairgrad.utils.text_tables import counted
from mtrl_fairgrad.utils.validation import ConfigError

if TYPE_CHECKING:
    from mtrl_fairgrad.supervised.compare import FitRunner

COMMAND = Command(
    "mtrl_fairgrad.supervised", "supervised", partial(SupervisedConfig, benchmark={}, method={})
)


@entry_point
def main(arguments: list[str] | None = None) -> int:
    """Compose and check the configuration, run it and print the table; returns the exit code."""

    def task(composed: DictConfig) -> int:
        overrides = given_overrides()
        config = from_hydra(composed, overrides)
        assign_folder(config, overrides)
        return start(config, overrides)

    return run_with_hydra(task, sys.argv[1:] if arguments is None else arguments, COMMAND)


def start(config: SupervisedConfig, overrides: Sequence[str] = ()) -> int:
    """Run a configuration; returns the exit code: 0, 1 if a fit failed, 130 after an interrupt.

    A search returns 0 if it found an α, since a fit that fails excludes its α only.

    Args:
        config: validated.
        overrides: the command line that the configuration was composed from.

    Raises:
        ConfigError: the data are missing or damaged, or a fit cannot be run.
    """
    import torch

    from mtrl_fairgrad.supervised.benchmark import DataError
    from mtrl_fairgrad.supervised.compare import FitRunner
    from mtrl_fairgrad.supervised.run_folder import check_free

    device = resolve_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    folder = _run_dir(config)
    if config.benchmark["name"] == "toy":
        return _draw_toy(config, folder, overrides)
    check_free(folder)
    runner = FitRunner(config, make_benchmark(config), folder, device, overrides)
    try:
        code = _search(runner) if config.compare == "search" else _compare(runner)
    except DataError as error:
        # An error of a data loader process carries that process's traceback as its text.
        last_line = str(error).strip().splitlines()[-1]
        raise ConfigError(last_line.rpartition("DataError: ")[2]) from None
    except TrainingFault as fault:
        return fail(fault, code=1)
    except BrokenPipeError:
        raise  # whoever read the output went away
    except OSError as error:
        if broken := output_fault(error):
            return output_failed(broken)
        return fail(
            f"{error.filename or folder} could not be written ({error.strerror or error}): "
            f"{remedy(error)}, then give the command again with "
            f"{shlex.quote(override('run_dir', folder))}",
            code=1,
        )
    except KeyboardInterrupt:
        again = shlex.quote(override("run_dir", folder))
        print(f"stopped; the same command with {again} continues it", file=sys.stderr)
        return 130
    if runner.finished_before:
        fits = counted(len(runner.finished_before), "fit")
        print(f"finished before, and not repeated: {fits}", file=sys.stderr)
    print(f"\nrun folder: {folder}")
    return code


def _draw_toy(config: SupervisedConfig, folder: Path, overrides: Sequence[str]) -> int:
    """Draw Figure 1 and print where trajectories end; returns 1 if one has no end, else 0.

    A stalled trajectory has one: LS does not reach the Pareto front from every start.
    """
    from mtrl_fairgrad.supervised.benchmarks import toy, toy_files

    toy_files.make_folder(folder)
    trajectories = toy.run(make_toy(config), folder, config.progress, overrides)
    print(toy_files.table(folder))
    print(f"\nrun folder: {folder}")
    outcomes = [outcome for one in trajectories for outcome in one.outcomes]
    endless = len([one for one in outcomes if one in (toy.DIVERGED, toy.UNFINISHED)])
    if not endless:
        return 0
    advice = (
        "a smaller benchmark.learning_rate"
        if toy.DIVERGED in outcomes
        else "a larger benchmark.steps or benchmark.learning_rate"
    )
    verb = "has" if endless == 1 else "have"
    print(
        f"{endless} of {len(outcomes)} trajectories {verb} no end: try {advice}.", file=sys.stderr
    )
    return 1


def _run_dir(config: SupervisedConfig) -> Path:
    if config.run_dir is not None:
        return Path(config.run_dir)
    what = config.method["name"] if config.compare is None else config.compare
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path(f"runs/{config.benchmark['name']}-{what}-{stamp}")


def _compare(runner: FitRunner) -> int:
    """Run the rows of a comparison, or of one method, and print the table.

    table.csv is rewritten after every row, so that an interrupted run leaves one. Returns 1 if a
    row failed, else 0.
    """
    from mtrl_fairgrad.supervised.compare import comparison

    table = None
    for table in comparison(runner):
        runner.write_table(table)
    assert table is not None  # there is at least one row
    print(table.text())
    if table.failed and runner.config.compare is not None:
        print(
            "the same command with this run_dir repeats the failed fits and no others.",
            file=sys.stderr,
        )
    return 1 if table.failed else 0


def _search(runner: FitRunner) -> int:
    """Search for the best α and print the findings."""
    from mtrl_fairgrad.supervised.search import search

    findings = search(runner)
    print(f"{findings.text()}\n\n{findings.verdict(runner.overrides)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
