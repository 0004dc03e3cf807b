"""The numbers of a fit's epochs, and the result that follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtrl_fairgrad.supervised.benchmark import Benchmark
from mtrl_fairgrad.supervised.fit_folder import FitResult
from mtrl_fairgrad.utils.text_tables import csv_text


@dataclass(frozen=True)
class EpochRecord:
    """The numbers of an epoch in checkpoints, epochs.csv and TensorBoard."""

    losses: dict[str, float]
    """Task → mean training loss."""
    validation: dict[str, float]
    """Metric → value."""
    test: dict[str, float]
    """Metric → value."""
    seconds: float
    """Training time, without validation and test."""

    def scalars(self) -> dict[str, float]:
        """Return TensorBoard tag, which is also the CSV column → value."""
        parts = (("losses", self.losses), ("validation", self.validation), ("test", self.test))
        tagged = {f"{part}/{name}": v for part, values in parts for name, v in values.items()}
        return {**tagged, "seconds": self.seconds}


def epochs_csv(history: Sequence[EpochRecord]) -> str:
    """Return the text of epochs.csv for at least one epoch."""
    rows = [record.scalars() for record in history]
    lines = [[epoch, *row.values()] for epoch, row in enumerate(rows, start=1)]
    return csv_text([["epoch", *rows[0]], *lines])


def epoch_score(
    validation: Mapping[str, float], benchmark: Benchmark, single_task: int | None
) -> float:
    """Return the score of the trained tasks, lower is better; infinite instead of NaN."""
    tasks = benchmark.tasks if single_task is None else (benchmark.tasks[single_task],)
    names = [metric.name for metric in benchmark.metrics if metric.task in tasks]
    score = benchmark.score({name: validation[name] for name in names})
    return math.inf if math.isnan(score) else score


def result_of(
    history: Sequence[EpochRecord], benchmark: Benchmark, single_task: int | None
) -> FitResult:
    """Return the result of a fit with at least one epoch.

    Args:
        history: all epochs so far.
        benchmark: the one that was trained, which says which epochs are reported.
        single_task: index of the only task that was trained; None if all were.
    """
    if benchmark.select_best:
        reported = [
            min(
                history,
                key=lambda record: epoch_score(record.validation, benchmark, single_task),
            )
        ]
    else:
        reported = history[-benchmark.last_epochs :]
    return FitResult(
        metrics=_mean([record.test for record in reported]),
        validation=_mean([record.validation for record in reported]),
        seconds_per_epoch=float(np.median([record.seconds for record in history])),
    )


def _mean(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([record[name] for record in records])) for name in records[0]}
