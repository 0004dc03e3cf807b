"""The interface of a supervised benchmark: data, network, losses, metrics and schedule.

K is the number of tasks; a batch is whatever the collation of the data set yields.
`mtrl_fairgrad.supervised.benchmarks` lists the benchmarks and says how to add one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader


class DataError(ValueError):
    """The data are missing or damaged; the message states what was expected where."""


@dataclass(frozen=True)
class Metric:
    """One column of a benchmark's table."""

    name: str
    """Name in reports, such as `miou`."""
    task: str
    """Name of the task that it measures."""
    higher_is_better: bool


@dataclass(frozen=True)
class Schedule:
    """How a benchmark is trained, by default as in the paper."""

    epochs: int
    batch_size: int
    learning_rate: float
    """Initial learning rate of Adam."""
    weight_decay: float = 0.0
    halve_every: int | None = None
    """Number of epochs after which the learning rate is halved, repeatedly; None: never."""
    plateau: tuple[float, int, float] | None = None
    """Reduction of the learning rate when the validation score stops improving.

    Factor, patience in epochs and minimum learning rate; None: no such reduction.
    """
    plateau_threshold: float | None = None
    """Part of Δm% (of the score without baseline) by which an improvement must exceed the best so
    far to count for `plateau`; None: any improvement counts."""
    keep_last_batch: bool | None = None
    """True: train on the last, incomplete batch of an epoch, too; None and False: leave it out."""


@dataclass(frozen=True)
class Splits:
    """Data loaders. `validation` is the test data where the paper has no validation data."""

    train: DataLoader[Any]
    validation: DataLoader[Any]
    test: DataLoader[Any]


class MultiTaskModel(nn.Module):
    """A network with parameters shared by all tasks and parameters of single tasks."""

    def shared_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that all tasks use; their task gradients are combined."""
        raise NotImplementedError

    def own_parameters(self) -> Iterable[nn.Parameter]:
        """Return all other parameters, each of which one task uses."""
        shared = {id(parameter) for parameter in self.shared_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in shared)


class Meter(ABC):
    """Accumulates the metrics of an epoch."""

    @abstractmethod
    def update(self, outputs: Any, batch: Any) -> None:
        """Add the network's outputs for one batch."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """Return metric → value over all batches so far, for every metric of the benchmark."""


class Benchmark(ABC):
    """A data set with its network, losses, metrics and schedule.

    Subclasses may take further keyword arguments, the options of `configs/benchmark/NAME.yaml`.

    Args:
        root: folder of the data; None for a benchmark whose data come with a package.
    """

    name: ClassVar[str]
    """Key in `benchmarks.BENCHMARKS`, name of the configuration file and command-line value."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Modules of the extra `supervised` without which it cannot be trained."""
    representation: ClassVar[str | None] = None
    """Name of the network's module through whose output all shared parameters act on the losses.

    It is what `representation=true` combines gradients at; None where there is no such module.
    """
    tasks: tuple[str, ...]
    """Names of the K tasks."""
    metrics: tuple[Metric, ...]
    schedule: Schedule
    last_epochs: int = 1
    """Number of last epochs whose mean is the result, unless `select_best`."""
    select_best: bool = False
    """Whether the result is that of the epoch with the lowest validation `score` instead."""
    baseline: Mapping[str, float] | None = None
    """Metric → the paper's single-task value, for Δm%; None where there is none."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root

    @abstractmethod
    def splits(self, seed: int, batch_size: int, workers: int, pin_memory: bool) -> Splits:
        """Make the data loaders; the order of the training data depends on the seed alone.

        Raises:
            DataError: the data are missing or damaged.
        """

    @abstractmethod
    def model(self) -> MultiTaskModel:
        """Make a new network, initialised from PyTorch's global generator; the caller seeds it."""

    @abstractmethod
    def losses(self, outputs: Any, batch: Any) -> Sequence[Tensor]:
        """Return the K task losses for a batch, scalars of one graph."""

    @abstractmethod
    def meter(self) -> Meter:
        """Make a new meter."""

    def inputs(self, batch: Any) -> tuple[Any, ...]:
        """Return the arguments of the network for a batch; by default its first element."""
        return (batch[0],)

    def score(self, values: Mapping[str, float]) -> float:
        """Return the score that selects an epoch and reduces the learning rate; lower is better.

        By default the mean of the metrics relative to the baseline, which ranks like Δm%, or
        their plain mean without a baseline.

        Args:
            values: metric → validation value, for all tasks or for some.
        """
        signs = {metric.name: -1.0 if metric.higher_is_better else 1.0 for metric in self.metrics}
        baseline = self.baseline or {}
        return float(
            np.mean(
                [signs[name] * value / baseline.get(name, 1.0) for name, value in values.items()]
            )
        )

    def delta_m(self, score: float) -> float:
        """Return the Δm% that belongs to the `score` of all metrics, if there is a baseline."""
        if self.baseline is None:
            return score
        signs = [-1.0 if metric.higher_is_better else 1.0 for metric in self.metrics]
        return 100 * (score - float(np.mean(signs)))

    def folder(self, expected: str) -> Path:
        """Return the folder of the data.

        Args:
            expected: what the folder must hold, for the message.

        Raises:
            DataError: no folder was given, or it does not exist.
        """
        if self.root is None:
            raise DataError(f"{self.name} needs data.root=FOLDER, a folder with {expected}.")
        if not self.root.is_dir():
            problem = "is not a folder" if self.root.exists() else "does not exist"
            raise DataError(
                f"data.root={self.root} {problem}: {self.name} needs a folder with {expected}."
            )
        return self.root


def with_last_batch(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader of the same batches in the same order, and of the incomplete one."""
    return DataLoader(
        loader.dataset,
        loader.batch_size,
        sampler=loader.sampler,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        generator=loader.generator,
        collate_fn=loader.collate_fn,
    )


def seeded_loader(
    dataset: Any,
    batch_size: int,
    seed: int,
    workers: int = 0,
    pin_memory: bool = False,
    shuffle: bool = False,
    **more: Any,
) -> DataLoader[Any]:
    """Make a data loader whose order depends on the seed alone.

    With `shuffle` the last, incomplete batch is dropped, unless it is the only one: losses stay
    comparable between steps, and batch normalisation never meets a single sample. Worker processes
    end with each epoch: persistent ones would draw differently from the generator, so that a
    resumed run would differ.
    """
    return DataLoader(
        dataset,
        batch_size,
        shuffle=shuffle,
        drop_last=shuffle and len(dataset) > batch_size,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),
        **more,
    )
