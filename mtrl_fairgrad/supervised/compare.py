"""Fits of many methods on one benchmark: which fits a comparison needs, and running them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mtrl_fairgrad.runs.manifest import manifest
from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.config import SupervisedConfig
from mtrl_fairgrad.supervised.fit_folder import SINGLE_TASK, FitFolder, FitResult
from mtrl_fairgrad.supervised.fit_spec import FitSpec
from mtrl_fairgrad.supervised.result_table import ResultRow, single_task_row
from mtrl_fairgrad.supervised.trainer import Trainer
from mtrl_fairgrad.weighting import method_names, method_options

FAIR = ("ls", "rlw", "dwa", "uw", "mgda", "pcgrad", "cagrad")
"""The methods of the paper's §6, each with and without the α-fair loss transformation."""
ALPHAS = (1.0, 2.0, 5.0, 10.0)
"""The values of α of the paper's §5.3."""


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


def comparison_specs(comparison: str, tasks: int) -> list[RowSpec]:
    """Return the rows of a comparison (`all`, `fair` or `alpha`), the single-task ones first."""
    specs = single_task_specs(tasks)
    if comparison == "all":
        others = [name for name in method_names() if name not in ("ls", SINGLE_TASK)]
        return specs + [RowSpec(name, method_config(name)) for name in ("ls", *others)]
    if comparison == "alpha":
        return specs + [alpha_spec(method_config("fairgrad"), alpha) for alpha in ALPHAS]
    for name in FAIR:
        plain = RowSpec(name, method_config(name))
        specs += [plain, replace(plain, label=f"fair {name}", loss_alpha=0.5)]
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

    def results(self, row: RowSpec) -> tuple[FitResult, ...]:
        """Return the results of a row, in the order of the seeds; raises as `fit` does."""
        config = replace(self.config, method=row.method, loss_alpha=row.loss_alpha)
        return tuple(
            self.fit(
                FitSpec.from_config(config, self.benchmark, seed),
                self.folder / row.folder / f"seed-{seed}",
            )
            for seed in self.config.seeds
        )

    def rows(self, specs: Iterable[RowSpec]) -> Iterator[ResultRow]:
        """Yield the rows in order, each as soon as its fits are finished.

        Rows of single tasks are merged into one.
        """
        single: dict[int, tuple[FitResult, ...]] = {}
        for spec in specs:
            results = self.results(spec)
            if spec.task is None:
                yield ResultRow(spec.label, results)
                continue
            single[spec.task] = results
            if len(single) == len(self.benchmark.tasks):
                yield single_task_row(single, self.benchmark)

    def fit(self, spec: FitSpec, path: Path) -> FitResult:
        """Run a fit in its folder, from its newest checkpoint if there is any, or read its result.

        Raises:
            RunFolderError: the folder holds another fit, is in use, or cannot be written.
            DataError: the data are missing or damaged.
            TrainingFault: a loss became NaN or infinite.
        """
        folder = FitFolder.open_or_create(path, spec.plain(), self._manifest)
        finished = folder.result()
        if finished is not None:
            return finished
        with folder.lock():
            trainer = Trainer(spec, self.benchmark, folder, self.device, self.config.workers)
            result = trainer.run(self.config.progress)
            folder.save_result(result)
        return result

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        on_gpu = self.device.type == "cuda"
        accelerator = torch.cuda.get_device_name(self.device) if on_gpu else None
        return manifest(self.overrides, str(self.device), accelerator=accelerator)
