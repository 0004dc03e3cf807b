"""Cityscapes (Cordts et al., 2016): 7 classes and depth of street scenes; the paper's §5.1, Table
3.
"""

from __future__ import annotations

from mtrl_fairgrad.supervised.benchmarks.dense_prediction import (
    METRICS,
    Dense,
    paper_schedule,
    single_task,
)


class Cityscapes(Dense):
    """2,975 images of 128 × 256 for training and 500 for validation and testing, which are the
    same; see `dense`.

    Depth is the download's inverse depth, without unit. Where it is near 0, relative errors are far
    above 1: the paper prints their mean as it is, not in percent. Augmentation divides it by the
    scale as if it were a depth, as in the published code, though an inverse depth grows with the
    scale.
    """

    name = "cityscapes"
    title = "Cityscapes (128 × 256)"
    folders = ("image", "label_7", "depth")
    classes = 7
    schedule = paper_schedule(batch_size=8)
    baseline = single_task("table3", METRICS)
