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
    """The data are missing or broken; the message says what was expected where."""


@dataclass(frozen=True)
class Metric:
    """One column of a benchmark's table."""

    name: str
    """As reports call it, such as `miou`."""
    task: str
    """The task it measures."""
    higher_is_better: bool


@dataclass(frozen=True)
class Schedule:
    """How a benchmark is trained, as in the paper unless its configuration says otherwise."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    halve_every: int | None = None
    """Epochs after which the learning rate is halved, again and again."""
    plateau: tuple[float, int, float] | None = None
    """Factor, patience in epochs and lowest learning rate of a reduction where the validation score
    stalls.
    """


class Splits:
    """Loaders of the three parts of a data set; `validation` may be the test data where the paper
    has no others.
    """

    def __init__(
        self, train: DataLoader[Any], validation: DataLoader[Any], test: DataLoader[Any]
    ) -> None:
        self.train, self.validation, self.test = train, validation, test


class MultiTaskModel(nn.Module):
    """A network whose parameters know whom they serve."""

    def shared_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that all tasks use: their gradients are combined."""
        raise NotImplementedError

    def own_parameters(self) -> Iterable[nn.Parameter]:
        """All others, each of which serves one task."""
        shared = {id(parameter) for parameter in self.shared_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in shared)


class Meter(ABC):
    """Gathers predictions over an epoch and answers the metrics."""

    @abstractmethod
    def update(self, outputs: Any, batch: Any) -> None:
        """Take in the network's outputs for one batch."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """Name of each of the benchmark's metrics -> its value over everything taken in."""


class Benchmark(ABC):
    """A data set with its network, losses, metrics and schedule.

    Args:
        root: the folder of the data, where they are not embedded.
        options: the benchmark's own, see its class.
    """

    name: ClassVar[str]
    """Registry key, file name, configuration name and command-line word."""
    tasks: tuple[str, ...]
    metrics: tuple[Metric, ...]
    schedule: Schedule
    last_epochs: int = 1
    """Reported are means over so many last epochs."""
    select_best: bool = False
    """Whether instead the one epoch is reported whose validation has the lowest `score`."""
    baseline: Mapping[str, float] | None = None
    """Metric -> single-task value of the paper, for Δm%, where there is one."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root

    @abstractmethod
    def splits(self, seed: int, batch_size: int, workers: int, pin_memory: bool) -> Splits:
        """Loaders; the training order depends on the seed alone.

        Raises:
            DataError: missing or broken data.
        """

    @abstractmethod
    def model(self) -> MultiTaskModel:
        """A new network, initialised from PyTorch's global generator, which the caller has seeded."""

    @abstractmethod
    def losses(self, outputs: Any, batch: Any) -> Sequence[Tensor]:
        """The K task losses of the network's outputs for a batch, scalars of one graph."""

    @abstractmethod
    def meter(self) -> Meter:
        """A new meter."""

    def inputs(self, batch: Any) -> tuple[Any, ...]:
        """What of a batch the network is called with."""
        return (batch[0],)

    def score(self, values: Mapping[str, float]) -> float:
        """What validation metrics, all or some tasks', are worth for choosing an epoch or a rate:
        less is better.

        By default their mean change relative to the baseline, which ranks like Δm%, or their plain
        mean without one.
        """
        signs = {metric.name: -1.0 if metric.higher_is_better else 1.0 for metric in self.metrics}
        baseline = self.baseline or {}
        return float(
            np.mean(
                [signs[name] * value / baseline.get(name, 1.0) for name, value in values.items()]
            )
        )

    def folder(self, expected: str) -> Path:
        """The folder of the data, which should hold what is `expected`.

        Raises:
            DataError: none was given.
        """
        if self.root is None:
            raise DataError(f"{self.name} needs data.root=FOLDER, a folder with {expected}.")
        return self.root


def seeded_loader(
    dataset: Any,
    batch_size: int,
    seed: int,
    workers: int = 0,
    pin_memory: bool = False,
    shuffle: bool = False,
    **more: Any,
) -> DataLoader[Any]:
    """A loader whose order depends on the seed alone; the last incomplete batch of a shuffled one
    is dropped.

    Dropping keeps losses comparable between steps, and batch normalisation from meeting a single
    sample. Workers do not outlive an epoch: persistent ones would draw differently from the
    generator, so that a resumed run would differ.
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
