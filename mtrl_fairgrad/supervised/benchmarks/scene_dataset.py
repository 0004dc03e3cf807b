"""The data of NYU-v2 and Cityscapes, and their augmentation.

The files are MTAN's (Liu et al., 2019): `{train,val}/FOLDER/{0,1,…}.npy` with arrays `[H, W, C]`,
labels `[H, W]`.

A sample is a tuple of the image `[3, H, W]` in [0, 1], integer labels `[H, W]` with −1 for unknown,
the depth `[1, H, W]` in the unit of the data with 0 for unknown, and for NYU-v2 the surface normals
`[3, H, W]` of unit length with 0 for unknown. A batch has a leading dimension B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from mtrl_fairgrad.supervised.benchmark import DataError
from mtrl_fairgrad.supervised.benchmarks.segnet import STRIDE

Sample = tuple[Tensor, ...]

SCALES = (1.0, 1.2, 1.5)
"""Factors by which augmentation enlarges images."""


class Rule(NamedTuple):
    """What the values of an array may be."""

    channels: int
    lowest: float
    highest: float
    allowed: str
    """The same in words, with the remedy."""


IMAGE = Rule(3, -0.5, 1.5, "images must be in [0, 1]: divide values of 0 to 255 by 255")
"""Resizing with a cubic filter leaves [0, 1] a little; other encodings are far outside."""
DEPTH = Rule(1, 0.0, math.inf, "depths must be at least 0, and 0 where unknown")
NORMALS = Rule(3, -1.5, 1.5, "normals must have unit length, and 0 where unknown")


class Scenes(Dataset[Sample]):
    """N samples: `scenes[i]` is unaltered, `scenes[i, seed]` is augmented with that seed.

    Args:
        part: the folder `train` or `val`.
        names: its folders of images, labels, depths and, if there are four, normals.
        classes: number of classes.

    Raises:
        DataError: there are no images, the folders do not match, or the network does not support
            the size.
    """

    def __init__(self, part: Path, names: Sequence[str], classes: int) -> None:
        self.part, self.names, self.classes = part, names, classes
        self._count = _count(part, names)
        first = part / names[0] / "0.npy"
        self._size = _array(first).shape[:2]
        if len(self._size) < 2 or any(side == 0 or side % STRIDE for side in self._size):
            raise DataError(
                f"{first} has shape {self._size}: height and width must be multiples of {STRIDE}."
            )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Read a sample.

        Raises:
            DataError: a file is damaged, has another shape, or values that are not allowed.
        """
        if isinstance(key, tuple):
            index, seed = key
            return augment(self[index], torch.Generator().manual_seed(seed))
        image, labels, *rest = (self.part / name / f"{key}.npy" for name in self.names)
        maps = (self._map(file, rule) for file, rule in zip(rest, (DEPTH, NORMALS), strict=False))
        return self._map(image, IMAGE), self._labels(labels), *maps

    def _map(self, file: Path, rule: Rule) -> Tensor:
        array = self._read(file, rule.channels)
        if not rule.lowest <= array.min() <= array.max() <= rule.highest:
            raise DataError(
                f"{file} has values from {array.min():g} to {array.max():g}, but {rule.allowed}."
            )
        return torch.from_numpy(array).permute(2, 0, 1).contiguous()

    def _labels(self, file: Path) -> Tensor:
        labels = self._read(file)
        if not np.isin(labels, np.arange(-1, self.classes)).all():
            raise DataError(f"{file} has labels outside -1 to {self.classes - 1}.")
        return torch.from_numpy(labels).long()

    def _read(self, file: Path, *channels: int) -> np.ndarray:
        array, shape = _array(file), (*self._size, *channels)
        if array.shape != shape:
            raise DataError(
                f"{file} has shape {array.shape}, but the size of the first image requires {shape}."
            )
        if not np.isfinite(array).all():
            raise DataError(f"{file} has values that are not finite.")
        return array


def _array(file: Path) -> np.ndarray:
    """Read an array of real numbers as float32."""
    try:
        with file.open("rb") as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        if np.iscomplexobj(array):
            raise DataError(
                f"{file} has complex numbers ({array.dtype}): save real ones, such as float32."
            )
        return np.asarray(array, dtype=np.float32)
    except DataError:
        raise
    except (OSError, ValueError, TypeError, SyntaxError, TokenError, MemoryError) as error:
        raise DataError(
            f"{file} is not an intact .npy file of numbers: copy it again from the download."
        ) from error


def _count(part: Path, names: Sequence[str]) -> int:
    """Count the samples N; every folder must have the files 0.npy to N − 1.npy."""
    files_of = {name: {file.name for file in (part / name).glob("*.npy")} for name in names}
    counts = {name: len(files) for name, files in files_of.items()}
    count = counts[names[0]]
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{number} in {name}" for name, number in counts.items())
        raise DataError(
            f"{part} has different numbers of .npy files ({listed}): each image needs one file in "
            "every folder."
        )
    if count == 0:
        raise DataError(
            f"{part} has no .npy files in {' and '.join(names)}: copy them again from the download."
        )
    for name, files in files_of.items():
        missing = [index for index in range(count) if f"{index}.npy" not in files]
        if missing:
            raise DataError(
                f"{part / name} lacks {missing[0]}.npy: its {count} files must be 0.npy to "
                f"{count - 1}.npy."
            )
    return count


class AugmentedOrder(Sampler[tuple[int, int]]):
    """A random order of N samples for each epoch, with a seed for the augmentation of each sample.

    Both are drawn in the main process at the start of the epoch, so that they depend on the
    generator alone: not on the number of workers, nor on where an interrupted training continues.
    """

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count, self.generator = count, generator

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.randperm(self.count, generator=self.generator)
        seeds = torch.randint(2**63 - 1, (self.count,), generator=self.generator)
        return zip(order.tolist(), seeds.tolist(), strict=True)


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    """Enlarge a random crop to the full size, and flip it horizontally with probability ½.

    The factor is drawn from `SCALES`. Depth is divided by the factor, since what looks larger is
    nearer. A flip changes the sign of the first component of normals. Images and normals are
    interpolated bilinearly, which shortens normals slightly where they change; labels and depth
    take the nearest value, since a mean of two classes, or of a depth and "unknown", is
    meaningless.
    """
    image, labels, depth, *normals = sample
    height, width = labels.shape
    scale = SCALES[_below(len(SCALES), generator)]
    h, w = int(height / scale), int(width / scale)
    top, left = _below(height - h + 1, generator), _below(width - w + 1, generator)

    def enlarge(part: Tensor, mode: str) -> Tensor:
        crop = part[None, :, top : top + h, left : left + w]
        corners = True if mode == "bilinear" else None
        return F.interpolate(crop, size=(height, width), mode=mode, align_corners=corners)[0]

    image, depth = enlarge(image, "bilinear"), enlarge(depth, "nearest") / scale
    labels = enlarge(labels[None].float(), "nearest")[0].long()
    normals = [enlarge(part, "bilinear") for part in normals]
    if _below(2, generator):
        image, labels, depth = image.flip(-1), labels.flip(-1), depth.flip(-1)
        normals = [part.flip(-1) * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1) for part in normals]
    return image, labels, depth, *normals


def _below(end: int, generator: torch.Generator) -> int:
    """Draw an integer from 0 to end − 1."""
    return int(torch.randint(end, (), generator=generator))
