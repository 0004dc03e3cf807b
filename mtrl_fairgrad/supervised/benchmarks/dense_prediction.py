"""Segmentation and depth of every pixel, shared by NYU-v2 and Cityscapes: losses, metrics, loaders.

All definitions are those of the code that CAGrad, Nash-MTL, FAMO and the paper use. It averages
errors over each batch and then over batches, as `averaging=batches` does; by default they are
averaged over all pixels of the data set.

As in the paper, `val` is both the validation and the test data, so that what is selected by
validation, such as α, is reported with the very numbers that it was selected by.

`scene_dataset` describes a batch; the network's outputs are in the order of the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mtrl_fairgrad.analysis.paper_tables import paper_table
from mtrl_fairgrad.supervised.benchmark import (
    Benchmark,
    DataError,
    Meter,
    Metric,
    Schedule,
    Splits,
    seeded_loader,
)
from mtrl_fairgrad.supervised.benchmarks.scene_dataset import AugmentedOrder, Scenes
from mtrl_fairgrad.supervised.benchmarks.segnet import SegNet
from mtrl_fairgrad.utils.validation import check_choice

METRICS = (
    Metric("miou", "segmentation", higher_is_better=True),
    Metric("pixel_accuracy", "segmentation", higher_is_better=True),
    Metric("abs_error", "depth", higher_is_better=False),
    Metric("rel_error", "depth", higher_is_better=False),
)


# ---- losses ----


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy over labelled pixels, 0 if there are none.

    Args:
        logits: `[B, C, H, W]`.
        labels: `[B, H, W]`, −1 where unknown.
    """
    total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / (labels != -1).sum().clamp(min=1)


def depth_loss(prediction: Tensor, depth: Tensor) -> Tensor:
    """Compute the mean absolute error over pixels of known depth, 0 if there are none.

    Args:
        prediction: `[B, 1, H, W]`.
        depth: `[B, 1, H, W]`, 0 where unknown.
    """
    return masked_mean((prediction - depth).abs(), depth != 0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean of the values where the mask, of the same shape, is true.

    It is 0 with zero gradient if the mask is false everywhere.
    """
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


# ---- metrics ----


class SegmentationMeter(Meter):
    """`miou` and `pixel_accuracy` in %, over all labelled pixels; NaN if there are none.

    The mean is over the classes that occur as label or as prediction, since the ratio of the others
    is 0/0.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._confusion = torch.zeros(classes, classes, dtype=torch.long)

    def update(self, outputs: Any, batch: Any) -> None:
        """Add logits `[B, C, H, W]`, the first output, and labels."""
        labels, predicted = batch[1], outputs[0].argmax(1)
        labelled = labels >= 0
        pairs = labels[labelled] * self._classes + predicted[labelled]
        counts = torch.bincount(pairs, minlength=self._classes**2).view(
            self._classes, self._classes
        )
        self._confusion = counts + self._confusion.to(counts.device)

    def values(self) -> dict[str, float]:
        """Return both metrics, from the confusion matrix."""
        confusion = self._confusion.double().cpu()
        hits = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - hits
        return {
            "miou": 100 * (hits / union)[union > 0].mean().item(),
            "pixel_accuracy": 100 * (hits.sum() / confusion.sum()).item(),
        }


class DepthMeter(Meter):
    """Mean errors over known depths; NaN if there are none.

    `abs_error` is the mean absolute error in the unit of the data, `rel_error` the mean relative
    error as a plain number.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)

    def update(self, outputs: Any, batch: Any) -> None:
        """Add predictions `[B, 1, H, W]`, the second output, and depths."""
        known = batch[2] != 0
        depth = batch[2][known].double()
        error = (outputs[1][known] - depth).abs()
        sums = torch.stack((error.sum(), (error / depth).sum(), known.sum()))
        self._sums = sums + self._sums.to(sums.device)

    def values(self) -> dict[str, float]:
        """Return both metrics."""
        absolute, relative, count = self._sums.cpu()
        return {"abs_error": (absolute / count).item(), "rel_error": (relative / count).item()}


class CombinedMeter(Meter):
    """Several meters used as one."""

    def __init__(self, *parts: Meter) -> None:
        self.parts = parts

    def update(self, outputs: Any, batch: Any) -> None:
        """Update each meter."""
        for part in self.parts:
            part.update(outputs, batch)

    def values(self) -> dict[str, float]:
        """Return the metrics of all meters."""
        return {name: value for part in self.parts for name, value in part.values().items()}


class MeanOverBatches(Meter):
    """Metrics of each batch, averaged over batches, as in the published code.

    A batch for which a metric is NaN does not count for it.

    Args:
        make: makes the meter of one batch.
    """

    def __init__(self, make: Callable[[], Meter]) -> None:
        self._make, self._batches = make, list[dict[str, float]]()

    def update(self, outputs: Any, batch: Any) -> None:
        """Measure one batch."""
        meter = self._make()
        meter.update(outputs, batch)
        self._batches.append(meter.values())

    def values(self) -> dict[str, float]:
        """Return the means; NaN where no batch has a value."""
        named = self._batches or [self._make().values()]
        columns = {name: [values[name] for values in named] for name in named[0]}
        finite = {name: [v for v in column if v == v] for name, column in columns.items()}
        return {
            name: sum(column) / len(column) if column else math.nan
            for name, column in finite.items()
        }


# ---- benchmarks ----


class DensePrediction(Benchmark):
    """A benchmark of segmentation and depth; subclasses may add tasks.

    Args:
        root: folder with `train` and `val`.
        width: width of the network, see `SegNet`; 1 in the paper.
        augment: whether to augment training images, as in the paper.
        averaging: `pixels`: errors of depths and normals are means and medians over all pixels;
            `batches`: those of each batch, averaged over batches, as in the paper's code.

    Raises:
        ValueError: the width is not positive, or another averaging.
    """

    title: ClassVar[str]
    """Name of the data set in messages."""
    folders: ClassVar[tuple[str, ...]]
    """Folders of images, labels, depths and possibly normals; see `Scenes`."""
    classes: ClassVar[int]
    """Number of classes of the segmentation."""
    tasks = ("segmentation", "depth")
    metrics = METRICS
    last_epochs = 10

    def __init__(
        self,
        root: Path | None = None,
        width: float = 1.0,
        augment: bool = True,
        averaging: str = "pixels",
    ) -> None:
        super().__init__(root)
        if not width > 0:
            raise ValueError(f"width={width} is not allowed: give a number above 0.")
        check_choice("averaging", averaging, ("pixels", "batches"))
        self.width, self.augment, self.averaging = width, augment, averaging

    def splits(self, seed: int, batch_size: int, workers: int, pin_memory: bool) -> Splits:
        """Make loaders: one of `train`, and one of `val` for both validation and test."""
        root = self._checked_root()
        train, val = (Scenes(root / part, self.folders, self.classes) for part in ("train", "val"))
        evaluated = seeded_loader(val, batch_size, seed, workers, pin_memory)
        if not self.augment:
            return Splits(
                seeded_loader(train, batch_size, seed, workers, pin_memory, shuffle=True),
                evaluated,
                evaluated,
            )
        # Like `seeded_loader`, but with a sampler that draws the seeds of the augmentation, too.
        # Workers must not persist: that spares the loader one draw from the generator, so that the
        # order would depend on whether there are workers.
        generator = torch.Generator().manual_seed(seed)
        loader = DataLoader(
            train,
            batch_size,
            sampler=AugmentedOrder(len(train), generator),
            drop_last=len(train) > batch_size,
            num_workers=workers,
            pin_memory=pin_memory,
            generator=generator,
        )
        return Splits(loader, evaluated, evaluated)

    def model(self) -> SegNet:
        """Make the paper's network, at this width.

        Its outputs are logits `[B, C, H, W]` and depths `[B, 1, H, W]`.
        """
        return SegNet((self.classes, 1), self.width)

    def losses(self, outputs: Any, batch: Any) -> list[Tensor]:
        """Return the losses of segmentation and depth."""
        return [segmentation_loss(outputs[0], batch[1]), depth_loss(outputs[1], batch[2])]

    def meter(self) -> Meter:
        """Make a meter of segmentation and depth."""
        return CombinedMeter(SegmentationMeter(self.classes), self._averaged(DepthMeter))

    def _averaged(self, make: Callable[[], Meter]) -> Meter:
        return make() if self.averaging == "pixels" else MeanOverBatches(make)

    def _checked_root(self) -> Path:
        """Return the root after checking that it has all folders.

        Raises:
            DataError: no root was given, or folders are missing.
        """
        expected = (
            f"{{train,val}}/{{{','.join(self.folders)}}}/{{0,1,2,…}}.npy, the preprocessed "
            f"{self.title} that https://github.com/lorenmt/mtan links to"
        )
        root = self.folder(expected)
        folders = [f"{part}/{folder}" for part in ("train", "val") for folder in self.folders]
        missing = [folder for folder in folders if not (root / folder).is_dir()]
        if missing:
            raise DataError(f"{root} lacks {' and '.join(missing)}: {self.name} needs {expected}.")
        return root


def paper_schedule(batch_size: int) -> Schedule:
    """Return the paper's schedule: 200 epochs of Adam at 1e-4, halved after 100 (§5.1)."""
    return Schedule(epochs=200, batch_size=batch_size, learning_rate=1e-4, halve_every=100)


def single_task(table: str, metrics: Sequence[Metric]) -> Mapping[str, float]:
    """Return single-task values of a paper table, whose columns have the names of the metrics."""
    paper = paper_table(table)
    values = dict(
        zip(
            (metric.name for metric in paper.metrics),
            paper.values[paper.row("stl")].tolist(),
            strict=True,
        )
    )
    return {metric.name: values[metric.name] for metric in metrics}
