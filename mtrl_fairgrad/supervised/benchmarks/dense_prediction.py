"""What NYU-v2 and Cityscapes share: files, augmentation, losses and metrics of a class and a depth
for every pixel.

All definitions are those of the code that CAGrad, Nash-MTL, FAMO and the paper use, except that
errors are averaged over all pixels of the data set, where that code averages over each batch and
then over batches.

There is no third part. As in the paper, `val` is the validation data and the test data too, so that
what is chosen by validation, such as α, is reported with the numbers it was chosen by.

What a batch is, `scenes` says; a network's outputs are in the order of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

METRICS = (
    Metric("miou", "segmentation", higher_is_better=True),
    Metric("pixel_accuracy", "segmentation", higher_is_better=True),
    Metric("abs_error", "depth", higher_is_better=False),
    Metric("rel_error", "depth", higher_is_better=False),
)


# ---- losses ----


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood over labelled pixels, 0 if there are none: `[B, C, H, W]`, `[B,
    H, W]` → scalar.
    """
    total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / (labels != -1).sum().clamp(min=1)


def depth_loss(prediction: Tensor, depth: Tensor) -> Tensor:
    """Mean absolute error over pixels of known depth, 0 if there are none: `[B, 1, H, W]` twice →
    scalar.
    """
    return masked_mean((prediction - depth).abs(), depth != 0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of values where the mask, of the same shape, holds; 0 with zero gradient where it
    holds nowhere.
    """
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


# ---- metrics ----


class SegmentationMeter(Meter):
    """`miou` and `pixel_accuracy` in %, of all pixels with a label; NaN if there are none.

    The mean is over the classes that occur, as label or as prediction: of others the ratio is 0/0.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._confusion = torch.zeros(classes, classes, dtype=torch.long)

    def update(self, outputs: Any, batch: Any) -> None:
        """Take in logits `[B, C, H, W]`, the first output, and labels."""
        labels, predicted = batch[1], outputs[0].argmax(1)
        labelled = labels >= 0
        pairs = labels[labelled] * self._classes + predicted[labelled]
        counts = torch.bincount(pairs, minlength=self._classes**2).view(
            self._classes, self._classes
        )
        self._confusion = counts + self._confusion.to(counts.device)

    def values(self) -> dict[str, float]:
        """Both of the confusion matrix."""
        confusion = self._confusion.double().cpu()
        hits = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - hits
        return {
            "miou": 100 * (hits / union)[union > 0].mean().item(),
            "pixel_accuracy": 100 * (hits.sum() / confusion.sum()).item(),
        }


class DepthMeter(Meter):
    """Mean absolute error `abs_error`, in the data's unit, and relative error `rel_error`, of 1,
    over known depths.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)

    def update(self, outputs: Any, batch: Any) -> None:
        """Take in predictions `[B, 1, H, W]`, the second output, and depths."""
        known = batch[2] != 0
        depth = batch[2][known].double()
        error = (outputs[1][known] - depth).abs()
        sums = torch.stack((error.sum(), (error / depth).sum(), known.sum()))
        self._sums = sums + self._sums.to(sums.device)

    def values(self) -> dict[str, float]:
        """NaN if no depth is known."""
        absolute, relative, count = self._sums.cpu()
        return {"abs_error": (absolute / count).item(), "rel_error": (relative / count).item()}


class Meters(Meter):
    """Several in one."""

    def __init__(self, *parts: Meter) -> None:
        self.parts = parts

    def update(self, outputs: Any, batch: Any) -> None:
        """Each takes in what concerns it."""
        for part in self.parts:
            part.update(outputs, batch)

    def values(self) -> dict[str, float]:
        """Those of all."""
        return {name: value for part in self.parts for name, value in part.values().items()}


# ---- benchmarks ----


class Dense(Benchmark):
    """A benchmark of segmentation and depth; subclasses say what differs, and add tasks.

    Args:
        root: folder with `train` and `val`.
        width: of the network, see `SegNet`; 1 in the paper.
        augment: whether training images are augmented, as they are in the paper.
    """

    title: ClassVar[str]
    folders: ClassVar[tuple[str, ...]]
    """As `Scenes` takes them."""
    classes: ClassVar[int]
    tasks = ("segmentation", "depth")
    metrics = METRICS
    last_epochs = 10

    def __init__(self, root: Path | None = None, width: float = 1.0, augment: bool = True) -> None:
        super().__init__(root)
        if not width > 0:
            raise ValueError(f"width={width}: give a positive number, 1 for the paper's network.")
        self.width, self.augment = width, augment

    def splits(self, seed: int, batch_size: int, workers: int, pin_memory: bool) -> Splits:
        """`train`, and twice the same loader of `val`."""
        root = self._found()
        train, val = (Scenes(root / part, self.folders, self.classes) for part in ("train", "val"))
        measured = seeded_loader(val, batch_size, seed, workers, pin_memory)
        if not self.augment:
            return Splits(
                seeded_loader(train, batch_size, seed, workers, pin_memory, shuffle=True),
                measured,
                measured,
            )
        # As `seeded_loader` does, whose order has no place for seeds. Workers start anew in every
        # epoch: those that persist spare the loader one draw from the generator, so that the order
        # would depend on whether there are any.
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
        return Splits(loader, measured, measured)

    def model(self) -> SegNet:
        """The paper's network, at our width: logits `[B, C, H, W]`, depths `[B, 1, H, W]` and what
        else there is.
        """
        return SegNet((self.classes, 1), self.width)

    def losses(self, outputs: Any, batch: Any) -> list[Tensor]:
        """Of segmentation and depth."""
        return [segmentation_loss(outputs[0], batch[1]), depth_loss(outputs[1], batch[2])]

    def meter(self) -> Meter:
        """Of segmentation and depth."""
        return Meters(SegmentationMeter(self.classes), DepthMeter())

    def _found(self) -> Path:
        """The root, with all folders.

        Raises:
            DataError: there is none, or it lacks some.
        """
        expected = (
            f"{{train,val}}/{{{','.join(self.folders)}}}/{{0,1,2,…}}.npy, the preprocessed "
            f"{self.title} that "
            "https://github.com/lorenmt/mtan links to"
        )
        root = self.folder(expected)
        folders = [f"{part}/{folder}" for part in ("train", "val") for folder in self.folders]
        missing = [folder for folder in folders if not (root / folder).is_dir()]
        if missing:
            raise DataError(f"{root} lacks {' and '.join(missing)}: {self.name} needs {expected}.")
        return root


def paper_schedule(batch_size: int) -> Schedule:
    """200 epochs of Adam at 1e-4, halved after 100 (§5.1)."""
    return Schedule(epochs=200, batch_size=batch_size, learning_rate=1e-4, halve_every=100)


def single_task(table: str, metrics: Sequence[Metric]) -> Mapping[str, float]:
    """The row STL of a paper table, whose columns are these metrics by the same names, in the same
    units.
    """
    paper = paper_table(table)
    values = dict(
        zip(
            (metric.name for metric in paper.metrics),
            paper.values[paper.row("stl")].tolist(),
            strict=True,
        )
    )
    return {metric.name: values[metric.name] for metric in metrics}
