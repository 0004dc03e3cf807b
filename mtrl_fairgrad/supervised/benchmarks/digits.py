"""Digits: a multi-task problem from real data that comes with scikit-learn, for trying methods in a
minute.

Two handwritten digits (8×8 pixels) are laid over each other, the right one three columns further,
so that five columns belong to both. Three tasks share one small network: which digit is left, which
is right, and what share of the ink is the left one's. Training, validation and test pairs are made
of different digits.
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
"""Columns between the two digits."""
SPLIT = (0.6, 0.2, 0.2)
"""Shares of the 1,797 digits for training, validation and test."""
DATA_SEED = 0
"""The data are the same for every seed of a run."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Images `[B, 1, 8, 11]` in [0, 1], left and right digit `[B]` int64, ink `[B]` in [0, 1]."""


class DigitsNetwork(MultiTaskModel):
    """Two convolutions and a hidden layer for all, one linear head each."""

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
        """Those of the encoder."""
        return self.encoder.parameters()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits `[B, 10]` of both digits and the ink's logit `[B]`."""
        hidden = self.encoder(images)
        left, right, ink = (head(hidden) for head in self.heads)
        return [left, right, ink[:, 0]]


class DigitsMeter(Meter):
    """Accuracies, and the root mean square error of the ink."""

    def __init__(self) -> None:
        self._hits, self._squares, self._count = torch.zeros(2), 0.0, 0

    def update(self, outputs: list[Tensor], batch: Batch) -> None:
        """Count hits and add squared errors."""
        _, *digits, ink = batch
        for place, (logits, label) in enumerate(zip(outputs, digits, strict=False)):
            self._hits[place] += int((logits.argmax(-1) == label).sum())
        self._squares += float((outputs[2].sigmoid() - ink).square().sum())
        self._count += len(ink)

    def values(self) -> dict[str, float]:
        """`left`, `right` in percent, `ink` in percent of all ink."""
        left, right = (100 * self._hits / self._count).tolist()
        return {"left": left, "right": right, "ink": 100 * (self._squares / self._count) ** 0.5}


class Digits(Benchmark):
    """Two overlaid digits.

    Args:
        root: ignored, the data are embedded.
        pairs: training pairs, at least 1; validation and test have a quarter as many each.
        width: channels of the first convolution, at least 1.

    Raises:
        ValueError: a value that is not allowed.
    """

    name = "digits"
    requires = ("sklearn",)
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
        """Pairs of digits; the data set is small, so no worker processes are used."""
        train, validation, test = _data(self.pairs)
        return Splits(
            seeded_loader(train, batch_size, seed, pin_memory=pin_memory, shuffle=True),
            seeded_loader(validation, 512, seed, pin_memory=pin_memory),
            seeded_loader(test, 512, seed, pin_memory=pin_memory),
        )

    def model(self) -> DigitsNetwork:
        """A new network."""
        return DigitsNetwork(self.width)

    def losses(self, outputs: list[Tensor], batch: Batch) -> Sequence[Tensor]:
        """Cross-entropies of the digits, and the squared error of the ink."""
        _, left, right, ink = batch
        return [
            F.cross_entropy(outputs[0], left),
            F.cross_entropy(outputs[1], right),
            F.mse_loss(outputs[2].sigmoid(), ink),
        ]

    def meter(self) -> DigitsMeter:
        """A new meter."""
        return DigitsMeter()


def _data(pairs: int) -> list[TensorDataset]:
    """Training, validation and test pairs."""
    from sklearn.datasets import load_digits  # here, because it takes a second

    found: Any = load_digits()
    generator = np.random.default_rng(DATA_SEED)
    order = generator.permutation(len(found.images))
    ends = np.cumsum([round(share * len(order)) for share in SPLIT[:-1]])
    counts = (pairs, max(1, pairs // 4), max(1, pairs // 4))
    parts = zip(np.split(order, ends), counts, strict=True)
    return [
        _pairs(found.images[part] / 16, found.target[part], count, generator)
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
