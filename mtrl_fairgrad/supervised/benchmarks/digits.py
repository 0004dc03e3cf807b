"""Digits: a multi-task problem on real data that come with scikit-learn; trains in a minute.

Two handwritten digits (8 × 8 pixels) overlap, the right one shifted by three columns. Three tasks
share one small network: classify the left digit, classify the right digit, and predict the left
digit's share of the ink. Training, validation and test pairs are made of different digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from mtrl_fairgrad.supervised.benchmark import (
    Benchmark,
    Meter,
    Metric,
    MultiTaskModel,
    Schedule,
    Splits,
    seeded_loader,
)

SHIFT = 3
"""Columns by which the right digit is shifted."""
SPLIT = (0.6, 0.2, 0.2)
"""Fractions of the 1,797 digits for training, validation and test."""
DATA_SEED = 0
"""Seed of the pairs, which are the same for every seed of a run."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Images `[B, 1, 8, 11]` in [0, 1], left and right digit `[B]` int64, ink share `[B]` in [0, 1]."""


class DigitsNetwork(MultiTaskModel):
    """Two convolutions and a hidden layer shared by all tasks, and a linear head for each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 4 * 5, 128),
            nn.ReLU(),
        )
        self.heads = nn.ModuleList([nn.Linear(128, 10), nn.Linear(128, 10), nn.Linear(128, 1)])

    def shared_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters of the encoder."""
        return self.encoder.parameters()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the outputs for images `[B, 1, 8, 11]`.

        Returns:
            Logits `[B, 10]` of both digits, and the logit `[B]` of the ink share.
        """
        hidden = self.encoder(images)
        left, right, ink = (head(hidden) for head in self.heads)
        return [left, right, ink[:, 0]]


class DigitsMeter(Meter):
    """Accuracies of the digits, and the root mean square error of the ink share."""

    def __init__(self) -> None:
        self._hits, self._squares, self._count = torch.zeros(2), 0.0, 0

    def update(self, outputs: list[Tensor], batch: Batch) -> None:
        """Add a batch: outputs of `DigitsNetwork`."""
        _, *digits, ink = batch
        for place, (logits, label) in enumerate(zip(outputs, digits, strict=False)):
            self._hits[place] += int((logits.argmax(-1) == label).sum())
        self._squares += float((outputs[2].sigmoid() - ink).square().sum())
        self._count += len(ink)

    def values(self) -> dict[str, float]:
        """Return `left`, `right`: accuracy in %; `ink`: error in percentage points."""
        left, right = (100 * self._hits / self._count).tolist()
        return {"left": left, "right": right, "ink": 100 * (self._squares / self._count) ** 0.5}


class Digits(Benchmark):
    """Two overlaid digits.

    Args:
        root: not used, the data come with scikit-learn.
        pairs: training pairs, at least 1; validation and test have a quarter as many each.
        width: channels of the first convolution, at least 1.

    Raises:
        ValueError: a value that is not allowed.
    """

    name = "digits"
    requires = ("sklearn",)
    representation = "encoder"
    tasks = ("left", "right", "ink")
    metrics = (
        Metric("left", "left", True),
        Metric("right", "right", True),
        Metric("ink", "ink", False),
    )
    schedule = Schedule(epochs=30, batch_size=128, learning_rate=1e-3)
    last_epochs = 5

    def __init__(self, root: Path | None = None, pairs: int = 4000, width: int = 12) -> None:
        super().__init__(root)
        if pairs < 1 or width < 1:
            raise ValueError(
                f"pairs={pairs}, width={width} are not allowed: give whole numbers of at least 1."
            )
        self.pairs, self.width = pairs, width

    def splits(self, seed: int, batch_size: int, workers: int, pin_memory: bool) -> Splits:
        """Make the loaders; the data are in memory, so `workers` is not used."""
        train, validation, test = _data(self.pairs)
        return Splits(
            seeded_loader(train, batch_size, seed, pin_memory=pin_memory, shuffle=True),
            seeded_loader(validation, 512, seed, pin_memory=pin_memory),
            seeded_loader(test, 512, seed, pin_memory=pin_memory),
        )

    def model(self) -> DigitsNetwork:
        """Make a new network."""
        return DigitsNetwork(self.width)

    def losses(self, outputs: list[Tensor], batch: Batch) -> Sequence[Tensor]:
        """Return the digits' cross-entropies and the mean squared error of the ink share."""
        _, left, right, ink = batch
        return [
            F.cross_entropy(outputs[0], left),
            F.cross_entropy(outputs[1], right),
            F.mse_loss(outputs[2].sigmoid(), ink),
        ]

    def meter(self) -> DigitsMeter:
        """Make a new meter."""
        return DigitsMeter()


def _data(pairs: int) -> list[TensorDataset]:
    """Make training, validation and test pairs."""
    from sklearn.datasets import load_digits  # here, because it takes a second

    digits: Any = load_digits()
    generator = np.random.default_rng(DATA_SEED)
    order = generator.permutation(len(digits.images))
    ends = np.cumsum([round(share * len(order)) for share in SPLIT[:-1]])
    counts = (pairs, max(1, pairs // 4), max(1, pairs // 4))
    parts = zip(np.split(order, ends), counts, strict=True)
    return [
        _pairs(digits.images[part] / 16, digits.target[part], count, generator)
        for part, count in parts
    ]


def _pairs(
    images: np.ndarray, labels: np.ndarray, count: int, generator: np.random.Generator
) -> TensorDataset:
    left, right = generator.integers(len(images), size=(2, count))
    canvas = np.zeros((count, 1, 8, 8 + SHIFT))
    canvas[:, 0, :, :8] = images[left]
    canvas[:, 0, :, SHIFT:] = np.maximum(canvas[:, 0, :, SHIFT:], images[right])
    amounts = images[left].sum((1, 2)), images[right].sum((1, 2))
    ink = amounts[0] / (amounts[0] + amounts[1])
    return TensorDataset(
        torch.from_numpy(canvas).float(),
        torch.from_numpy(labels[left]).long(),
        torch.from_numpy(labels[right]).long(),
        torch.from_numpy(ink).float(),
    )
