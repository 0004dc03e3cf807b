"""Fits of many methods on one benchmark: which fits a comparison needs, and running them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mtrl_fairgrad.config.schema import to_dict
from mtrl_fairgrad.runs.manifest import manifest
from mtrl_fairgrad.supervised.baselines import given_baselines, trains_single_tasks
from mtrl_fairgrad.supervised.benchmark import Benchmark, DataError
from mtrl_fairgrad.supervised.config import SupervisedConfig
from mtrl_fairgrad.supervised.fit_folder import FAULT, SINGLE_TASK, FitFolder, FitResult
from mtrl_fairgrad.supervised.fit_spec import FitSpec
from mtrl_fairgrad.supervised.result_table import (
    FailedRow,
    ResultRow,
    ResultTable,
    single_task_row,
)
from mtrl_fairgrad.supervised.run_folder import write_table
from mtrl_fairgrad.supervised.trainer import Trainer
from mtrl_fairgrad.utils.atomic_io import RunFolderError
from mtrl_fairgrad.utils.extras import MissingExtraError
from mtrl_fairgrad.utils.faults import TrainingFault
from mtrl_fairgrad.utils.safe_files import entries
from mtrl_fairgrad.utils.validation import one_line
from mtrl_fairgrad.weighting import method_names, method_options

FAIR = ("ls", "rlw", "dwa", "uw", "mgda", "pcgrad", "cagrad")
"""The methods of the paper's §6, each with and without the α-fair loss transformation."""
ALPHAS = (1.0, 2.0, 5.0, 10.0)
"""The values of α of the paper's §5.3."""
_ENDS_EVERYTHING = (OSError, MissingExtraError, DataError, RunFolderError)
"""Errors that are not a fault of one fit: the next fit would meet them, too."""


@dataclass(frozen=True)
class RowSpec:
    """A row of a table before its fits are run: one method, for all seeds."""

    label: str
    method: dict[str, Any]
    loss_alpha: float | None = None
    task: int | None = None
    """Index of the task whose metrics alone count: part of the single-task row."""

    @property
    def folder(self) -> str:
        """Name of the folder of its fits."""
        return self.label if self.task is None else f"{self.label}-{self.task}"


def method_config(name: str, **chosen: Any) -> dict[str, Any]:
    """Return a method's configuration: its defaults, replaced by the chosen options."""
    return {"name": name, **method_options(name), **chosen}


def single_task_specs(tasks: int) -> list[RowSpec]:
    """Return the rows that together make the single-task row, one for each task."""
    return [
        RowSpec(SINGLE_TASK, method_config(SINGLE_TASK, task=task), task=task)
        for task in range(tasks)
    ]


def alpha_spec(chosen: Mapping[str, Any], alpha: float, loss_alpha: float | None = None) -> RowSpec:
    """Return the row of FairGrad at one α, with its other options as chosen."""
    return RowSpec(f"fairgrad α={alpha:.10g}", {**chosen, "alpha": alpha}, loss_alpha)


def comparison_specs(comparison: str) -> list[RowSpec]:
    """Return the rows of a comparison (`all`, `fair` or `alpha`) without the single-task ones."""
    if comparison == "all":
        others = [name for name in method_names() if name not in ("ls", SINGLE_TASK)]
        return [RowSpec(name, method_config(name)) for name in ("ls", *others)]
    if comparison == "alpha":
        return [alpha_spec(method_config("fairgrad"), alpha) for alpha in ALPHAS]
    specs: list[RowSpec] = []
    for name in FAIR:
        plain = RowSpec(name, method_config(name))
        specs += [plain, replace(plain, label=f"fair {name}", loss_alpha=0.5)]
    return specs


def run_specs(config: SupervisedConfig, benchmark: Benchmark) -> list[RowSpec]:
    """Return all rows of a comparison, or of one method."""
    if config.compare is None:
        specs = [RowSpec(str(config.method["name"]), config.method, config.loss_alpha)]
    else:
        specs = comparison_specs(config.compare)
    if trains_single_tasks(config, benchmark):
        specs = [*single_task_specs(len(benchmark.tasks)), *specs]
    return specs


@dataclass(frozen=True)
class FitRunner:
    """Runs fits below one folder, and reads those that are finished already.

    Args:
        config: validated; its method and `loss_alpha` are replaced by those of each row.
        benchmark: the one of the configuration.
        folder: where the folders of the rows are.
        device: what to train on.
        overrides: the command line, for the manifests.
    """

    config: SupervisedConfig
    benchmark: Benchmark
    folder: Path
    device: torch.device
    overrides: Sequence[str] = ()
    finished_before: list[Path] = field(default_factory=list[Path])
    """Folders of the fits that were not run because they have a result."""

    @cached_property
    def given(self) -> ResultRow | None:
        """The single-task row of `given_baselines`, which raises ConfigError."""
        return given_baselines(self.config, self.benchmark)

    def results(self, row: RowSpec) -> tuple[FitResult, ...]:
        """Return the results of a row, in the order of the seeds.

        A fault of one seed does not prevent the fits of the others.

        Raises:
            TrainingFault: the fit of at least one seed failed.
            RunFolderError, DataError: as `fit`.
        """
        config = replace(self.config, method=row.method, loss_alpha=row.loss_alpha)
        results: list[FitResult] = []
        faults: dict[int, str] = {}
        for seed in self.config.seeds:
            spec = FitSpec.from_config(config, self.benchmark, seed)
            try:
                results.append(self.fit(spec, self.folder / row.folder / f"seed-{seed}"))
            except TrainingFault as fault:
                faults[seed] = str(fault)
        if faults:
            many = len(self.config.seeds) > 1
            sentences = [f"{f'seed {seed}: ' if many else ''}{faults[seed]}" for seed in faults]
            raise TrainingFault(" ".join(sentences))
        return tuple(results)

    def rows(self, specs: Iterable[RowSpec]) -> Iterator[ResultRow | FailedRow]:
        """Yield the rows in order, each as soon as its fits are finished or have failed.

        Rows of single tasks are merged into one. A failed row is reported on standard error; the
        rows after it are run.
        """
        single: dict[int, tuple[FitResult, ...]] = {}
        faults: dict[int, str] = {}
        for spec in specs:
            try:
                results = self.results(spec)
            except TrainingFault as fault:
                self.tell(f"{spec.folder} failed: {fault}")
                if spec.task is None:
                    yield FailedRow(spec.label, str(fault))
                    continue
                faults[spec.task] = f"task {self.benchmark.tasks[spec.task]}: {fault}"
            else:
                if spec.task is None:
                    yield ResultRow(spec.label, results)
                    continue
                single[spec.task] = results
            if len(single) + len(faults) == len(self.benchmark.tasks):
                if faults:
                    yield FailedRow(SINGLE_TASK, " ".join(faults.values()))
                else:
                    yield single_task_row(single, self.benchmark)

    def fit(self, spec: FitSpec, path: Path) -> FitResult:
        """Run a fit in its folder, from its newest checkpoint if there is any, or read its result.

        Raises:
            RunFolderError: the folder holds another fit, is in use, or cannot be written.
            DataError: the data are missing or damaged.
            TrainingFault: training failed, for example because a loss became NaN or infinite; the
                cause is in fault.txt.
        """
        entries(path, root=self.folder)  # a link below the run's folder is refused
        folder = FitFolder.open_or_create(path, spec.plain(), self._manifest)
        finished = folder.result()
        if finished is not None:
            self.finished_before.append(path)
            return finished
        with folder.lock():
            folder.clean()
            folder.clear_fault()
            try:
                trainer = Trainer(spec, self.benchmark, folder, self.device, self.config.workers)
                result = trainer.run(self.config.progress)
            except _ENDS_EVERYTHING:
                raise
            except Exception as error:
                raise _recorded(error, folder) from None
            folder.save_result(result)
        return result

    def tell(self, failure: str) -> None:
        """Report a row that failed on standard error."""
        print(failure, file=sys.stderr)

    def write_table(self, table: ResultTable) -> None:
        """Rewrite table.csv, with configuration and manifest of the run if they are new."""
        # Where the run is does not matter to its numbers, and it may be moved.
        config = to_dict(replace(self.config, run_dir=None))
        write_table(self.folder, table.csv(), config, self._manifest)

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        return manifest(self.overrides, str(self.device))


def comparison(runner: FitRunner) -> Iterator[ResultTable]:
    """Run the rows of a comparison, or of one method; yield the table after each.

    Raises:
        ConfigError, RunFolderError, DataError: as `FitRunner.rows` and `FitRunner.given`.
    """
    table = ResultTable(runner.benchmark, () if runner.given is None else (runner.given,))
    for row in runner.rows(run_specs(runner.config, runner.benchmark)):
        table = table.with_row(row)
        yield table


def _recorded(error: Exception, folder: FitFolder) -> TrainingFault:
    """Write an error to the fit's folder; returns it as one sentence."""
    sentence = one_line(str(error))
    if not isinstance(error, TrainingFault):
        # Of a method, a network or the machine: its place in the code is in fault.txt.
        at = f"{folder.path.parent.name}/{folder.path.name}/{FAULT}"
        sentence = f"{type(error).__name__}: {sentence} (see {at})"
    folder.save_fault(sentence, "".join(traceback.format_exception(error)))
    # The frames hold the network and its graph, whose memory the next fit needs.
    traceback.clear_frames(error.__traceback__)
    return TrainingFault(sentence)
