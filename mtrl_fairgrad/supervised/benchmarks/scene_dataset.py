"""The files of NYU-v2 and Cityscapes, and their augmentation.

The data are MTAN's (Liu et al., 2019): `{train,val}/FOLDER/{0,1,…}.npy` with arrays `[H, W, C]`,
labels `[H, W]`.

A sample, and with a leading B a batch, is a tuple of the image `[3, H, W]` in [0, 1], integer
labels `[H, W]` with −1 for none, the depth `[1, H, W]` in the data's unit with 0 for unknown, and
of NYU-v2 the surface normals `[3, H, W]`, of unit length with 0 for unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from mtrl_fairgrad.supervised.benchmark import DataError
from mtrl_fairgrad.supervised.benchmarks.segnet import STRIDE

Sample = tuple[Tensor, ...]

SCALES = (1.0, 1.2, 1.5)
"""How many times as large things may look after augmentation."""


class Scenes(Dataset[Sample]):
    """N images with their maps: `scenes[i]` is one as it is, `scenes[i, seed]` the same augmented
    as the seed says.

    Args:
        part: the folder `train` or `val`.
        names: of its folders with images, labels, depths and, if there is a fourth, normals.
        classes: number of classes.

    Raises:
        DataError: no images, folders that do not match, or a size that the network cannot work
            with.
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
        """Read one.

        Raises:
            DataError: a file that is broken, has another shape, or values that are not allowed.
        """
        if isinstance(key, tuple):
            index, seed = key
            return augment(self[index], torch.Generator().manual_seed(seed))
        image, labels, *rest = (self.part / name / f"{key}.npy" for name in self.names)
        maps = (self._map(file, channels) for file, channels in zip(rest, (1, 3), strict=False))
        return self._map(image, 3), self._labels(labels), *maps

    def _map(self, file: Path, channels: int) -> Tensor:
        return torch.from_numpy(self._read(file, channels)).permute(2, 0, 1).contiguous()

    def _labels(self, file: Path) -> Tensor:
        labels = self._read(file)
        if not np.isin(labels, np.arange(-1, self.classes)).all():
            raise DataError(f"{file} holds other labels than -1 to {self.classes - 1}.")
        return torch.from_numpy(labels).long()

    def _read(self, file: Path, *channels: int) -> np.ndarray:
        array, shape = _array(file), (*self._size, *channels)
        if array.shape != shape:
            raise DataError(
                f"{file} has shape {array.shape}: expected is {shape}, as large as the first image."
            )
        if not np.isfinite(array).all():
            raise DataError(f"{file} holds numbers that are not finite.")
        return array


def _array(file: Path) -> np.ndarray:
    """A file's array in float32."""
    try:
        with file.open("rb") as stream:
            return np.asarray(
                np.lib.format.read_array(stream, allow_pickle=False), dtype=np.float32
            )
    except (OSError, ValueError, TypeError, SyntaxError, TokenError, MemoryError) as error:
        raise DataError(
            f"{file} is no whole .npy file of numbers: copy it anew from the download."
        ) from error


def _count(part: Path, names: Sequence[str]) -> int:
    """The number of samples in the folders, which must all have the files 0.npy to N − 1.npy."""
    found = {name: {file.name for file in (part / name).glob("*.npy")} for name in names}
    counts = {name: len(files) for name, files in found.items()}
    count = counts[names[0]]
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{number} in {name}" for name, number in counts.items())
        raise DataError(
            f"{part} has different numbers of .npy files ({listed}): each image needs one in every "
            "folder."
        )
    if count == 0:
        raise DataError(
            f"{part} has no .npy files in {' and '.join(names)}: copy them anew from the download."
        )
    for name, files in found.items():
        missing = [index for index in range(count) if f"{index}.npy" not in files]
        if missing:
            raise DataError(
                f"{part / name} lacks {missing[0]}.npy: its {count} files must be 0.npy to "
                f"{count - 1}.npy."
            )
    return count


class AugmentedOrder(Sampler[tuple[int, int]]):
    """A random order of N samples in every pass, each with a seed for its augmentation.

    Both are drawn in the main process as a pass begins. So a pass depends on the generator alone,
    whatever the number of workers, whose own generators would know nothing of where an interrupted
    training goes on.
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
    """Enlarge a random part to the size of the whole, by a factor out of `SCALES`, and mirror it
    half of the times.

    What looks larger is nearer: depth is divided by the factor. What is mirrored faces the other
    side: the first component of normals changes its sign. Images and normals are interpolated
    bilinearly (which shortens normals a little where they change); labels and depth take the
    nearest, since a mean of two classes or of a depth and "unknown" means nothing.
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
    return int(torch.randint(end, (), generator=generator))
