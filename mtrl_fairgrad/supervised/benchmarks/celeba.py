"""CelebA (Liu et al., 2015): 40 binary attributes of a face, each a task; paper §5.1, Table 1.

Network, preprocessing and schedule are those of FAMO's code (Liu et al., 2023), on which the paper
builds. One difference: heads return logits, from which the loss is computed. It is the same binary
cross-entropy as that of a sigmoid, but numerically more precise, and the predictions are the same,
since sigmoid(x) > ½ exactly where x > 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from mtrl_fairgrad.analysis.paper_tables import celeba_stl
from mtrl_fairgrad.supervised.benchmark import (
    Benchmark,
    DataError,
    Meter,
    Metric,
    MultiTaskModel,
    Schedule,
    Splits,
    seeded_loader,
)
from mtrl_fairgrad.supervised.benchmarks.celeba_files import ATTRIBUTES, EXPECTED, read_faces

SIZE = 64
"""Height and width in pixels to which images are resized, from 218 × 178, as in FAMO's code."""


class Faces(Dataset[tuple[Tensor, Tensor]]):
    """N images with attributes.

    An item is an image `[3, 64, 64]` in [0, 1] and labels `[40]`, each 0 or 1.

    Args:
        folder: folder of the images.
        names: N file names in the folder.
        labels: `[N, 40]` bool.
    """

    def __init__(self, folder: Path, names: Sequence[str], labels: Tensor) -> None:
        self.folder, self.names, self.labels = folder, names, labels

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read an item.

        Raises:
            DataError: the image is missing or damaged.
        """
        from PIL import Image

        file = self.folder / self.names[index]
        try:
            with Image.open(file) as image:
                resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        except OSError as error:
            raise DataError(
                f"{file} cannot be read ({error}): unpack it again from img_align_celeba.zip."
            ) from error
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        return pixels.float() / 255, self.labels[index].float()


class Network(MultiTaskModel):
    """Seven convolutions and two linear layers, shared, and a linear head for each attribute.

    Shared layers have no bias, since batch normalisation follows each. At width 64 there are
    5,176,640 shared parameters.

    Args:
        width: channels of the first convolution; the last ones and the linear layers have eight
            times as many.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.shared = nn.Sequential(
            _convolution(3, width),
            nn.MaxPool2d(2),
            _convolution(width, 2 * width),
            _convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            _convolution(2 * width, 4 * width),
            _convolution(4 * width, 4 * width),
            nn.MaxPool2d(2),
            _convolution(4 * width, 8 * width),
            _convolution(8 * width, 8 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            _linear(8 * width),
            _linear(8 * width),
        )
        self.heads = nn.ModuleList(nn.Linear(8 * width, 1) for _ in ATTRIBUTES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute 40 logits `[B]` of images `[B, 3, H, W]`.

        They are separate tensors, so that the backward pass of a task visits its own head only.
        """
        features = self.shared(images)
        return tuple(head(features).squeeze(1) for head in self.heads)

    def shared_parameters(self) -> Iterable[nn.Parameter]:
        """Return all parameters except those of the heads."""
        return self.shared.parameters()


class F1(Meter):
    """F1 of each attribute over all images, 2·TP / (2·TP + FP + FN), where having it is positive.

    0/0, where no image has the attribute or is predicted to have it, counts as 0, as in the
    official code.
    """

    def __init__(self) -> None:
        self._correct = self._predicted = self._true = torch.zeros(
            len(ATTRIBUTES), dtype=torch.long
        )

    def update(self, outputs: Any, batch: Any) -> None:
        """Add 40 logits `[B]` and a batch with labels `[B, 40]`."""
        predicted, true = torch.stack(tuple(outputs), dim=1) > 0, batch[1] > 0.5
        self._correct = (predicted & true).sum(0) + self._correct.to(true.device)
        self._predicted = predicted.sum(0) + self._predicted.to(true.device)
        self._true = true.sum(0) + self._true.to(true.device)

    def values(self) -> dict[str, float]:
        """Return `f1_<attribute>` → F1 in [0, 1]."""
        scores = 2 * self._correct.double() / (self._predicted + self._true).clamp(min=1)
        return {
            _column(attribute): score
            for attribute, score in zip(ATTRIBUTES, scores.tolist(), strict=True)
        }


def _column(attribute: str) -> str:
    return f"f1_{attribute}"


class CelebA(Benchmark):
    """CelebA, 162,770 images for training, 19,867 for validation and 19,962 for testing.

    Args:
        root: folder with images and lists, in one of the layouts of `celeba_files`.
        width: width of the network, see `Network`; 64 in the paper.
    """

    name = "celeba"
    requires = ("PIL",)
    representation = "shared"
    tasks = ATTRIBUTES
    metrics = tuple(
        Metric(_column(attribute), attribute, higher_is_better=True) for attribute in ATTRIBUTES
    )
    schedule = Schedule(epochs=15, batch_size=256, learning_rate=3e-4)
    select_best = True
    baseline = {_column(attribute): f1 for attribute, f1 in celeba_stl().items()}  # noqa: RUF012 - an instance attribute's default

    def __init__(self, root: Path | None = None, width: int = 64) -> None:
        super().__init__(root)
        if width < 1:
            raise ValueError(f"width={width}: give at least 1, 64 for the paper's network.")
        self.width = width

    def splits(self, seed: int, batch_size: int, workers: int, pin_memory: bool) -> Splits:
        """Make loaders of the official partition.

        Batches are images `[B, 3, 64, 64]` and labels `[B, 40]`, both float32.
        """
        train, validation, test = (Faces(*part) for part in read_faces(self.folder(EXPECTED)))
        more = (batch_size, seed, workers, pin_memory)
        return Splits(
            seeded_loader(train, *more, shuffle=True),
            seeded_loader(validation, *more),
            seeded_loader(test, *more),
        )

    def model(self) -> Network:
        """Make the paper's network, at this width."""
        return Network(self.width)

    def losses(self, outputs: Any, batch: Any) -> list[Tensor]:
        """Return the mean binary cross-entropy of each attribute."""
        columns = zip(outputs, batch[1].unbind(1), strict=True)
        return [F.binary_cross_entropy_with_logits(logits, labels) for logits, labels in columns]

    def meter(self) -> F1:
        """Make a meter of F1."""
        return F1()

    def score(self, values: Mapping[str, float]) -> float:
        """Return minus the mean F1, by which the official code selects the epoch."""
        return -float(np.mean(list(values.values())))


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _linear(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)
    )
