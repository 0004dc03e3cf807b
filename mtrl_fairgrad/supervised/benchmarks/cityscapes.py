"""Cityscapes (Cordts et al., 2016): 7 classes and depth of streets; paper §5.1, Table 3."""

from __future__ import annotations

from mtrl_fairgrad.supervised.benchmarks.dense_prediction import (
    METRICS,
    DensePrediction,
    paper_schedule,
    single_task,
)


class Cityscapes(DensePrediction):
    """2,975 images of 128 × 256 for training, and 500 for both validation and testing.

    Depth is the inverse depth of the download, without a unit. Where it is near 0, relative errors
    are far above 1; their mean is a plain number in the paper, not a percentage. Augmentation
    divides it by the scale as if it were a depth, as in the published code, although an inverse
    depth grows with the scale.
    """

    name = "cityscapes"
    title = "Cityscapes (128 × 256)"
    folders = ("image", "label_7", "depth")
    classes = 7
    schedule = paper_schedule(batch_size=8)
    baseline = single_task("table3", METRICS)
