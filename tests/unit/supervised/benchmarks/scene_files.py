"""Scenes in the format of NYU-v2 and Cityscapes on disk, small and easy to learn."""

import numpy as np

from mtrl_fairgrad.supervised.benchmarks.cityscapes import Cityscapes
from mtrl_fairgrad.supervised.benchmarks.nyuv2 import NYUv2

TINY = 1 / 16
SIZE = (32, 64)
BENCHMARKS = [NYUv2, Cityscapes]


def write(root, benchmark, counts=(8, 4), seed=0):
    """Scenes of one wall and floor each, whose colour determines class, depth and normal."""
    random = np.random.default_rng(seed)
    for part, count in zip(("train", "val"), counts, strict=True):
        for folder in benchmark.folders:
            (root / part / folder).mkdir(parents=True)
        for index in range(count):
            for folder, array in zip(
                benchmark.folders, scene(random, benchmark.classes), strict=False
            ):
                np.save(root / part / folder / f"{index}.npy", array)


def scene(random, classes):
    """Image, labels, depth and normals as on disk: float64 `[H, W, C]`, labels `[H, W]`."""
    height, width = SIZE
    image = random.uniform(0, 0.1, (height, width, 3))
    labels = np.full(SIZE, -1.0)
    depth, normal = np.zeros((height, width, 1)), np.zeros((height, width, 3))
    horizon = int(random.integers(8, 24))
    for rows, klass, distance, tilt in (
        (slice(0, horizon), 0, 2.0, (0.6, 0, 0.8)),
        (slice(horizon, -2), 3, 1.0, (0, 1, 0)),
    ):
        image[rows] += np.array([0.8, 0.1, 0.1]) if klass else np.array([0.1, 0.7, 0.3])
        labels[rows] = klass
        depth[rows] = distance + random.uniform(0, 0.1)
        normal[rows] = tilt
    assert labels.max() < classes
    return image, labels, depth, normal


def made(tmp_path, benchmark, **options):
    write(tmp_path, benchmark)
    return benchmark(tmp_path, width=TINY, **options)


def splits(benchmark, seed=0, batch_size=2, workers=0):
    return benchmark.splits(seed, batch_size, workers, False)
