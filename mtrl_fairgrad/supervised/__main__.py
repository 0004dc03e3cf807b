"""Run a supervised benchmark: `python -m mtrl_fairgrad.supervised benchmark=digits method=fairgrad
alpha=2`.

`compare=all`, `compare=fair` and `compare=alpha` make tables, `compare=search` looks for the best
α; `--help` lists everything.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtrl_fairgrad.cli.hydra_main import Command, run_with_hydra
from mtrl_fairgrad.supervised.config import SupervisedConfig, from_hydra, make_benchmark, make_toy
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.atomic_io import remedy, write_atomic
from mtrl_fairgrad.utils.device import resolve_device
from mtrl_fairgrad.utils.faults import TrainingFault
from mtrl_fairgrad.utils.validation import ConfigError

if TYPE_CHECKING:
    from mtrl_fairgrad.supervised.compare import FitRunner, ResultTable

COMMAND = Command(
    "mtrl_fairgrad.supervised", "supervised", partial(SupervisedConfig, benchmark={}, method={})
)


def main(arguments: list[str] | None = None) -> int:
    """Compose the configuration, check it, fit and print the table; returns the exit code."""
    result = 0

    def task(composed: DictConfig) -> None:
        nonlocal result
        words = list(HydraConfig.get().overrides.task)
        result = start(from_hydra(composed, words), words)

    return run_with_hydra(task, sys.argv[1:] if arguments is None else arguments, COMMAND) or result


def start(config: SupervisedConfig, words: Sequence[str] = ()) -> int:
    """Fit what a configuration asks for; returns the exit code, 1 after a fault.

    Args:
        config: validated.
        words: the command line it came from, for a command to go on with.
    """
    import torch

    from mtrl_fairgrad.supervised.benchmark import DataError
    from mtrl_fairgrad.supervised.benchmarks import toy
    from mtrl_fairgrad.supervised.compare import FitRunner

    device = resolve_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    what = config.method["name"] if config.compare is None else config.compare
    folder = Path(config.run_dir or f"runs/{config.benchmark['name']}-{what}-{stamp}")
    if config.benchmark["name"] == "toy":
        print(toy.run(make_toy(config), folder))
        print(f"\nwritten: {folder / 'toy.csv'}, {folder / 'toy.png'}")
        return 0
    fits = FitRunner(config, make_benchmark(config), folder, device)
    try:
        print(_searched(fits, words) if config.compare == "search" else _compared(fits).text())
    except DataError as error:
        # One that a loader's worker raised comes with the traceback as its text.
        raise ConfigError(
            str(error).strip().splitlines()[-1].rpartition("DataError: ")[2]
        ) from None
    except TrainingFault as fault:
        return fail(fault, code=1)
    except OSError as error:
        refused = f"{error.filename or folder} could not be written ({error.strerror or error})"
        return fail(
            f"{refused}: {remedy(error)}, then give the command again with run_dir={folder}", code=1
        )
    except KeyboardInterrupt:
        print(f"stopped; the same command with run_dir={folder} goes on from here", file=sys.stderr)
        return 130
    print(f"\nrun folder: {folder}")
    return 0


def _compared(fits: FitRunner) -> ResultTable:
    """The table of what was asked for; its file is written anew with every row."""
    from mtrl_fairgrad.supervised.compare import ResultRow, ResultTable, RowSpec, comparison_specs

    config, benchmark = fits.config, fits.benchmark
    if config.compare is None:
        asked = [RowSpec(str(config.method["name"]), config.method, config.loss_alpha)]
    else:
        asked = comparison_specs(config.compare, len(benchmark.tasks))
    rows: list[ResultRow] = []
    for row in fits.rows(asked):
        rows.append(row)
        write_atomic(fits.folder / "table.csv", ResultTable(benchmark, tuple(rows)).csv().encode())
    return ResultTable(benchmark, tuple(rows))


def _searched(fits: FitRunner, words: Sequence[str]) -> str:
    """What a search found, in words."""
    from mtrl_fairgrad.supervised.search import search

    findings = search(fits)
    return f"{findings.text()}\n\n{findings.verdict(words)}"


if __name__ == "__main__":
    sys.exit(main())
