"""Files of CelebA: where each layout has them, and reading attributes and partition.

Three layouts are read equally: that of the authors' download (`Anno/`, `Eval/`, `Img/`), the same
files without these folders, and Kaggle's, whose lists are CSV files with a heading and whose images
are in `img_align_celeba/img_align_celeba/`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtrl_fairgrad.analysis.paper_tables import celeba_stl
from mtrl_fairgrad.supervised.benchmark import DataError

ATTRIBUTES = tuple(celeba_stl())
"""The 40 tasks, in the order of the attribute list."""
PARTITIONS = {"0": "train", "1": "validation", "2": "test"}
_LABELS, _PARTITION, _IMAGES = "list_attr_celeba", "list_eval_partition", "img_align_celeba"
EXPECTED = (
    f"Anno/{_LABELS}.txt, Eval/{_PARTITION}.txt and Img/{_IMAGES}/*.jpg of "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (also without the folders Anno, Eval and "
    f"Img, or with {_LABELS}.csv and {_PARTITION}.csv, as on Kaggle)"
)


class FaceList(NamedTuple):
    """The images of one partition."""

    folder: Path
    names: list[str]
    """N file names in the folder."""
    labels: Tensor
    """`[N, 40]` bool."""


def read_faces(root: Path) -> list[FaceList]:
    """Return training, validation and test images.

    Checks that the image files exist, not that they are intact.

    Raises:
        DataError: a file is missing, damaged, or contradicts another.
    """
    label_file = _list_file(root, "Anno", _LABELS)
    partition_file = _list_file(root, "Eval", _PARTITION)
    images = _image_folder(root)
    missing = [
        name
        for name, found in (
            (f"Anno/{_LABELS}.txt", label_file),
            (f"Eval/{_PARTITION}.txt", partition_file),
            (f"Img/{_IMAGES}", images),
        )
        if found is None
    ]
    if label_file is None or partition_file is None or images is None:
        raise DataError(f"{root} lacks {' and '.join(missing)}: celeba needs {EXPECTED}.")
    names, labels = _attributes(label_file)
    parts = np.array(_parts(partition_file, label_file, names))
    # One listing of the folder instead of 200,000 system calls.
    present = set(os.listdir(images))
    absent = [name for name in names if name not in present]
    if absent:
        raise DataError(
            f"{images / absent[0]} is missing, one of {len(absent)} missing images that "
            f"{label_file} lists: unpack img_align_celeba.zip again."
        )
    faces: list[FaceList] = []
    for value, part in PARTITIONS.items():
        rows = np.flatnonzero(parts == value)
        if not len(rows):
            raise DataError(
                f"{partition_file} has no image of partition {value} ({part}): download it."
            )
        faces.append(FaceList(images, [names[row] for row in rows], labels[rows]))
    return faces


def _list_file(root: Path, folder: str, name: str) -> Path | None:
    paths = (root / part / f"{name}{end}" for part in (folder, "") for end in (".txt", ".csv"))
    return next((path for path in paths if path.is_file()), None)


def _image_folder(root: Path) -> Path | None:
    """Return the folder of the images: the innermost of nested ones that exists."""
    paths = (
        root / part / name for part in ("Img", "") for name in (f"{_IMAGES}/{_IMAGES}", _IMAGES)
    )
    return next((path for path in paths if path.is_dir()), None)


def _attributes(file: Path) -> tuple[list[str], Tensor]:
    """Read file names and labels `[N, 40]` bool."""
    heading, rows = _table(file)
    if tuple(heading) != ATTRIBUTES:
        line = "first" if file.suffix == ".csv" else "second"
        raise DataError(
            f"the {line} line of {file} does not list CelebA's {len(ATTRIBUTES)} attributes: "
            "download it again."
        )
    names, labels = [], []
    for name, *values in rows:
        if len(values) != len(ATTRIBUTES) or not {"-1", "1"}.issuperset(values):
            raise DataError(
                f"{file} must give {name} {len(ATTRIBUTES)} values, each -1 or 1: download it."
            )
        names.append(name)
        labels.append([value == "1" for value in values])
    return names, torch.from_numpy(np.array(labels, dtype=bool).reshape(-1, len(ATTRIBUTES)))


def _table(file: Path) -> tuple[list[str], list[list[str]]]:
    """Read the attribute list: names of the columns after the first, and rows of fields.

    The text file begins with the number of rows, and its heading has no name for the first column.
    """
    lines = _lines(file)
    if file.suffix == ".csv":
        heading, *rows = [[word.strip() for word in line.split(",")] for line in lines] or [[""]]
        return heading[1:], rows
    if len(lines) < 2:
        return [], []
    count, heading, *rows = lines
    if heading.split() == list(ATTRIBUTES) and count.strip() != str(len(rows)):
        raise DataError(
            f"the first line of {file} announces {count.strip()} images, but {len(rows)} are "
            "listed: download it again."
        )
    return heading.split(), [line.split() for line in rows]


def _parts(file: Path, label_file: Path, names: Sequence[str]) -> list[str]:
    """Read the partition of each image, a key of `PARTITIONS`."""
    lines = _lines(file)
    separator = "," if file.suffix == ".csv" else " "
    if file.suffix == ".csv" and lines and lines[0].strip().endswith("partition"):
        del lines[0]
    if len(lines) != len(names):
        raise DataError(
            f"{file} lists {len(lines)} images, but {label_file} lists {len(names)}: download both."
        )
    parts: list[str] = []
    for name, line in zip(names, lines, strict=True):
        listed, _, part = (word.strip() for word in line.strip().partition(separator))
        if listed != name:
            raise DataError(
                f"{file} lists {listed} where {label_file} lists {name}: both must have the same "
                "order."
            )
        if part not in PARTITIONS:
            allowed = ", ".join(f"{value} ({meaning})" for value, meaning in PARTITIONS.items())
            raise DataError(f"{file} assigns {name} to partition {part!r}; allowed: {allowed}.")
        parts.append(part)
    return parts


def _lines(file: Path) -> list[str]:
    """Read the non-blank lines; invalid UTF-8 becomes U+FFFD, which no field allows."""
    return [
        line
        for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        if line.strip()
    ]
