"""NYU-v2 (Silberman et al., 2012): 13 classes, depth and normals of rooms; paper §5.1, Table 2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtrl_fairgrad.supervised.benchmark import Meter, Metric
from mtrl_fairgrad.supervised.benchmarks.dense_prediction import (
    METRICS,
    CombinedMeter,
    DensePrediction,
    masked_mean,
    paper_schedule,
    single_task,
)
from mtrl_fairgrad.supervised.benchmarks.segnet import SegNet

THRESHOLDS = {"within_11": 11.25, "within_22": 22.5, "within_30": 30.0}
"""Metric → largest angle in degrees that it counts."""
BINS = 1000
"""Histogram bins per degree; the median angle is exact to half a bin."""

_METRICS = (
    *METRICS,
    Metric("angle_mean", "normal", higher_is_better=False),
    Metric("angle_median", "normal", higher_is_better=False),
    *(Metric(name, "normal", higher_is_better=True) for name in THRESHOLDS),
)


def normal_loss(prediction: Tensor, normals: Tensor) -> Tensor:
    """Compute the mean of 1 − cosine of the angle to the true normal.

    The mean is over pixels whose normal is known; 0 if there are none.

    Args:
        prediction: `[B, 3, H, W]`, vectors of any length.
        normals: `[B, 3, H, W]`, unit vectors, or 0 where unknown.

    Returns:
        A scalar in [0, 2].
    """
    return masked_mean(1 - _cosine(prediction, normals), _known(normals))


class NormalMeter(Meter):
    """Angles between predicted and true normals.

    Mean and median in degrees, and the percentage of pixels `within_…` a threshold, over all pixels
    whose normal is known; NaN if there are none. The median is taken from a histogram, since
    NYU-v2's test images have 72 million pixels.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(2 + len(THRESHOLDS), dtype=torch.float64)
        self._histogram = torch.zeros(180 * BINS + 1, dtype=torch.long)

    def update(self, outputs: Any, batch: Any) -> None:
        """Add predictions `[B, 3, H, W]`, the third output, and normals."""
        cosine = _cosine(outputs[2], batch[3])[_known(batch[3])]
        angles = torch.rad2deg(torch.acos(cosine.double().clamp(-1, 1)))
        near = [(angles < degrees).sum() for degrees in THRESHOLDS.values()]
        sums = torch.stack((angles.new_tensor(len(angles)), angles.sum(), *near))
        self._sums = sums + self._sums.to(sums.device)
        histogram = torch.bincount((angles * BINS).long(), minlength=len(self._histogram))
        self._histogram = histogram + self._histogram.to(histogram.device)

    def values(self) -> dict[str, float]:
        """Return the five metrics of normals."""
        count, total, *near = self._sums.tolist()
        if not count:
            return dict.fromkeys(("angle_mean", "angle_median", *THRESHOLDS), float("nan"))
        shares = {name: 100 * number / count for name, number in zip(THRESHOLDS, near, strict=True)}
        return {"angle_mean": total / count, "angle_median": self._median(), **shares}

    def _median(self) -> float:
        """Return the median angle in degrees; of an even number of pixels the middle two's mean."""
        reached = self._histogram.cumsum(0).cpu()
        count = reached[-1]
        middle = torch.searchsorted(
            reached, torch.stack(((count - 1) // 2, count // 2)), right=True
        )
        return (middle.double().mean().item() + 0.5) / BINS


def _cosine(prediction: Tensor, normals: Tensor) -> Tensor:
    """Return the cosine `[B, H, W]`; true normals must have unit length, as in the paper's code."""
    return (F.normalize(prediction.float(), dim=1) * normals).sum(1)


def _known(normals: Tensor) -> Tensor:
    return (normals != 0).any(1)


class NYUv2(DensePrediction):
    """795 images of 288 × 384 for training, and 654 for both validation and testing.

    Depth is in metres.
    """

    name = "nyuv2"
    title = "NYU-v2"
    folders = ("image", "label", "depth", "normal")
    classes = 13
    tasks = (*DensePrediction.tasks, "normal")
    metrics = _METRICS
    schedule = paper_schedule(batch_size=2)
    baseline = single_task("table2", _METRICS)

    def model(self) -> SegNet:
        """Make the network, with normals `[B, 3, H, W]` of any length as third output."""
        return SegNet((self.classes, 1, 3), self.width)

    def losses(self, outputs: Any, batch: Any) -> list[Tensor]:
        """Return the losses of segmentation, depth and normals."""
        return [*super().losses(outputs, batch), normal_loss(outputs[2], batch[3])]

    def meter(self) -> Meter:
        """Make a meter of segmentation, depth and normals."""
        return CombinedMeter(super().meter(), self._averaged(NormalMeter))
