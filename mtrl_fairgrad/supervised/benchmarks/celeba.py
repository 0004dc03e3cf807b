"""CelebA: 40 binary attributes of a face (Liu et al., 2015), each a task; the paper's §5.1 and
Table 1.

Network, preprocessing and schedule are those of FAMO's code (Liu et al., 2023), on which the paper
builds its own. One difference: heads answer logits, and the loss is taken from them. That is the
same binary cross-entropy as of a sigmoid, without its loss of precision, and the same prediction,
since sigmoid(x) > ½ where x > 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
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

_STL = celeba_stl()
ATTRIBUTES = tuple(_STL)
"""The 40 tasks, in the order of `list_attr_celeba.txt`."""
SIZE = 64
"""Height and width in pixels to which images are resized, from 218 × 178, as in FAMO's code."""

_PARTITIONS = {"0": "train", "1": "validation", "2": "test"}
_LABELS, _PARTITION, _IMAGES = (
    "Anno/list_attr_celeba.txt",
    "Eval/list_eval_partition.txt",
    "Img/img_align_celeba",
)
_EXPECTED = f"{_LABELS}, {_PARTITION} and {_IMAGES}/*.jpg of https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


class Faces(Dataset[tuple[Tensor, Tensor]]):
    """N images with their attributes; an item is an image `[3, 64, 64]` in [0, 1] and labels
    `[40]`, each 0 or 1.

    Args:
        folder: of the images.
        names: N file names in it.
        labels: `[N, 40]` of booleans.
    """

    def __init__(self, folder: Path, names: Sequence[str], labels: Tensor) -> None:
        self.folder, self.names, self.labels = folder, names, labels

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one.

        Raises:
            DataError: the image is missing or no image.
        """
        file = self.folder / self.names[index]
        try:
            with Image.open(file) as image:
                resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        except OSError as error:
            raise DataError(
                f"{file} cannot be read ({error}): unpack it anew from img_align_celeba.zip."
            ) from error
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
        return pixels.float() / 255, self.labels[index].float()


class Network(MultiTaskModel):
    """Seven convolutions and two linear layers, nine in all, for everyone, and a linear head for
    each attribute.

    Each shared layer is followed by batch normalisation, whose shift stands in for a bias. At width
    64 the shared parameters are 5,176,640.

    Args:
        width: channels of the first convolution; the last ones and the linear layers have eight
            times as many.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.shared = nn.Sequential(
            *(_convolution(3, width), nn.MaxPool2d(2)),
            *(_convolution(width, 2 * width), _convolution(2 * width, 2 * width), nn.MaxPool2d(2)),
            *(
                _convolution(2 * width, 4 * width),
                _convolution(4 * width, 4 * width),
                nn.MaxPool2d(2),
            ),
            *(
                _convolution(4 * width, 8 * width),
                _convolution(8 * width, 8 * width),
                nn.AdaptiveAvgPool2d(1),
            ),
            *(nn.Flatten(), _linear(8 * width), _linear(8 * width)),
        )
        self.heads = nn.ModuleList(nn.Linear(8 * width, 1) for _ in ATTRIBUTES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`[B, 3, H, W]` → 40 logits, each `[B]`: apart, so that one task's backward pass meets its
        own head only.
        """
        features = self.shared(images)
        return tuple(head(features).squeeze(1) for head in self.heads)

    def shared_parameters(self) -> Iterable[nn.Parameter]:
        """All but the heads'."""
        return self.shared.parameters()


class F1(Meter):
    """F1 of each attribute over all images taken in, 2·TP / (2·TP + FP + FN) for the class "has
    it".

    Where no image has the attribute and none is said to, this is 0/0 and counts as 0, as in the
    official code.
    """

    def __init__(self) -> None:
        self._correct = self._claimed = self._true = torch.zeros(len(ATTRIBUTES), dtype=torch.long)

    def update(self, outputs: Any, batch: Any) -> None:
        """Take in 40 logits `[B]` and a batch with labels `[B, 40]`."""
        claimed, true = torch.stack(tuple(outputs), dim=1) > 0, batch[1] > 0.5
        self._correct = (claimed & true).sum(0) + self._correct.to(true.device)
        self._claimed = claimed.sum(0) + self._claimed.to(true.device)
        self._true = true.sum(0) + self._true.to(true.device)

    def values(self) -> dict[str, float]:
        """`f1_<attribute>` → a number in [0, 1]."""
        scores = 2 * self._correct.double() / (self._claimed + self._true).clamp(min=1)
        return {
            _column(attribute): score
            for attribute, score in zip(ATTRIBUTES, scores.tolist(), strict=True)
        }


def _column(attribute: str) -> str:
    return f"f1_{attribute}"


class CelebA(Benchmark):
    """CelebA, 162,770 images for training, 19,867 for validation and 19,962 for testing.

    Args:
        root: folder with `Anno/list_attr_celeba.txt`, `Eval/list_eval_partition.txt` and
            `Img/img_align_celeba/`.
        width: of the network, see there; 64 in the paper.
    """

    name = "celeba"
    requires = ("PIL",)
    tasks = ATTRIBUTES
    metrics = tuple(
        Metric(_column(attribute), attribute, higher_is_better=True) for attribute in ATTRIBUTES
    )
    schedule = Schedule(epochs=15, batch_size=256, learning_rate=3e-4)
    select_best = True
    baseline = {_column(attribute): f1 for attribute, f1 in _STL.items()}  # noqa: RUF012 - an instance attribute's default

    def __init__(self, root: Path | None = None, width: int = 64) -> None:
        super().__init__(root)
        if width < 1:
            raise ValueError(f"width={width}: give at least 1, 64 for the paper's network.")
        self.width = width

    def splits(self, seed: int, batch_size: int, workers: int, pin_memory: bool) -> Splits:
        """The data set's own three parts; batches are images `[B, 3, 64, 64]` and labels `[B, 40]`,
        both float32.
        """
        train, validation, test = _read(self.folder(_EXPECTED))
        more = (batch_size, seed, workers, pin_memory)
        return Splits(
            seeded_loader(train, *more, shuffle=True),
            seeded_loader(validation, *more),
            seeded_loader(test, *more),
        )

    def model(self) -> Network:
        """The paper's network, at our width."""
        return Network(self.width)

    def losses(self, outputs: Any, batch: Any) -> list[Tensor]:
        """Mean binary cross-entropy of each attribute."""
        columns = zip(outputs, batch[1].unbind(1), strict=True)
        return [F.binary_cross_entropy_with_logits(logits, labels) for logits, labels in columns]

    def meter(self) -> F1:
        """F1 of each attribute."""
        return F1()

    def score(self, values: Mapping[str, float]) -> float:
        """Minus the mean F1, by which the official code chooses the epoch."""
        return -float(np.mean(list(values.values())))


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _linear(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)
    )


def _read(root: Path) -> list[Faces]:
    """Training, validation and test images; their files are known to exist, not yet to be whole."""
    missing = [part for part in (_LABELS, _PARTITION, _IMAGES) if not (root / part).exists()]
    if missing:
        raise DataError(f"{root} lacks {' and '.join(missing)}: celeba needs {_EXPECTED}.")
    names, labels = _attributes(root / _LABELS)
    parts = np.array(_parts(root / _PARTITION, names))
    # One listing of the folder instead of 200,000 questions to the file system.
    present = set(os.listdir(root / _IMAGES))
    absent = [name for name in names if name not in present]
    if absent:
        raise DataError(
            f"{root / _IMAGES / absent[0]} is missing, one of {len(absent)} images that {_LABELS} "
            "lists."
        )
    faces = []
    for value, part in _PARTITIONS.items():
        rows = np.flatnonzero(parts == value)
        if not len(rows):
            raise DataError(f"{root / _PARTITION} has no image of partition {value} ({part}).")
        faces.append(Faces(root / _IMAGES, [names[row] for row in rows], labels[rows]))
    return faces


def _attributes(file: Path) -> tuple[list[str], Tensor]:
    """File names and labels `[N, 40]` of booleans."""
    lines = _lines(file)
    if len(lines) < 2 or tuple(lines[1].split()) != ATTRIBUTES:
        raise DataError(
            f"{file} does not name CelebA's {len(ATTRIBUTES)} attributes in its second line."
        )
    if lines[0].strip() != str(len(lines) - 2):
        raise DataError(
            f"{file} announces {lines[0].strip()} images in its first line, but lists "
            f"{len(lines) - 2}."
        )
    names, labels = [], []
    for line in lines[2:]:
        name, *values = line.split()
        if len(values) != len(ATTRIBUTES) or not {"-1", "1"}.issuperset(values):
            raise DataError(f"{file} should give {name} {len(ATTRIBUTES)} values, each -1 or 1.")
        names.append(name)
        labels.append([value == "1" for value in values])
    return names, torch.from_numpy(np.array(labels, dtype=bool).reshape(-1, len(ATTRIBUTES)))


def _parts(file: Path, names: Sequence[str]) -> list[str]:
    """The partition of each image, a key of `_PARTITIONS`."""
    lines = _lines(file)
    if len(lines) != len(names):
        raise DataError(f"{file} lists {len(lines)} images, but {_LABELS} {len(names)}.")
    parts = []
    for name, line in zip(names, lines, strict=True):
        listed, _, part = (word.strip() for word in line.strip().partition(" "))
        if listed != name:
            raise DataError(
                f"{file} lists {listed} where {_LABELS} lists {name}: give both the same order."
            )
        if part not in _PARTITIONS:
            allowed = ", ".join(f"{value} ({meaning})" for value, meaning in _PARTITIONS.items())
            raise DataError(f"{file} puts {name} into partition {part!r}; allowed: {allowed}.")
        parts.append(part)
    return parts


def _lines(file: Path) -> list[str]:
    """The lines that are not blank; bytes that are no text become signs that no value allows."""
    return [
        line
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
