"""Files of QM9 in PyTorch Geometric's layout: the processed file is read, or made from raw ones.

The processed file holds a tuple: the data and their slices, and in newer versions further entries,
which are not used. The data are a dictionary of tensors (since PyTorch Geometric 2.4) or a pickled
`Data` object, in versions before 2.0 with its tensors as attributes. All are read, without running
code of the file or of PyTorch Geometric: its classes are replaced by one that only stores values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from mtrl_fairgrad.supervised.benchmark import DataError
from mtrl_fairgrad.utils.extras import require

RAW = ("gdb9.sdf", "gdb9.sdf.csv", "uncharacterized.txt")
PROCESSED = "processed/data_v3.pt"
EXPECTED = (
    f"{PROCESSED} or raw/{', raw/'.join(RAW)}, of "
    "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/molnet_publish/qm9.zip and, for "
    "the last one, https://ndownloader.figshare.com/files/3195404"
)
COLUMNS = 19
"""Number of properties in the data set, of which 11 are tasks."""
_KEYS = ("x", "edge_index", "edge_attr", "pos", "y")
_LOAD_ERRORS = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
)


class _Record:
    """Stands for every class of PyTorch Geometric in a pickle: it stores the values, no more."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """Stands for `defaultdict`, of which older versions made the slices."""
    return {}


_CLASSES: list[Any] = [
    (_plain_dict, "collections.defaultdict"),
    (dict, "builtins.dict"),
    (dict, "__builtin__.dict"),
    (list, "builtins.list"),
    (list, "__builtin__.list"),
    *(
        (_Record, f"torch_geometric.data.{name}")
        for name in (
            "data.Data",
            "storage.GlobalStorage",
            "storage.NodeStorage",
            "storage.EdgeStorage",
            "data.DataEdgeAttr",
            "data.DataTensorAttr",
            "feature_store._FieldStatus",
        )
    ),
]
"""What a processed file may name, with what is made in its place."""


def load_molecules(root: Path) -> Any:
    """Load PyTorch Geometric's data set of N molecules, without unpickling.

    The processed file is made from the raw ones if it is missing.

    Raises:
        DataError: files are missing or damaged.
    """
    processed = root / PROCESSED
    if not processed.exists():
        _process(root)
    graphs = geometric("data")
    data = graphs.InMemoryDataset()  # unlike QM9 it never asks for the raw files
    try:
        contents, slices = _read(processed)
        data.data, data.slices = graphs.Data.from_dict(contents), slices
    except _LOAD_ERRORS as error:
        raise DataError(
            f"{processed} is damaged: delete it, and it is made again from {root / 'raw'}."
        ) from error
    return data


def geometric(module: str) -> Any:
    """Import a module of torch_geometric, which other benchmarks do not need."""
    require("torch_geometric", "supervised")
    return import_module(f"torch_geometric.{module}")


def _read(processed: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors by name, joined over molecules, and the slices of each molecule in them."""
    with _allowed_only(_CLASSES):
        data, slices, *_ = torch.load(processed, map_location="cpu", weights_only=True)
    if isinstance(data, _Record):
        store = vars(data).get("_store")
        data = vars(data) if store is None else vars(store)["_mapping"]
    for key in _KEYS:
        if not isinstance(data[key], Tensor) or not isinstance(slices[key], Tensor):
            raise TypeError(f"{key} is not a tensor")
    if data["y"].ndim != 2 or data["y"].shape[1] != COLUMNS:
        raise ValueError(f"y has shape {tuple(data['y'].shape)}")
    return {key: data[key] for key in _KEYS}, {key: slices[key] for key in _KEYS}


@contextmanager
def _allowed_only(classes: list[Any]) -> Iterator[None]:
    """Let `torch.load` make these in place of the names that come with them, and nothing else.

    PyTorch Geometric registers its own classes under the same names on import.
    """
    registered = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(classes)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(registered)


def _process(root: Path) -> None:
    """Make the processed file from the raw ones."""
    _check_raw(root)
    try:
        geometric("datasets").QM9(str(root), force_reload=True)  # otherwise it unpickles
    except (AttributeError, LookupError, OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{root / 'raw'} cannot be processed to {PROCESSED}: {error!r}.") from error


def _check_raw(root: Path) -> None:
    """Check the raw files before PyTorch Geometric, which would download missing ones."""
    missing = [file for file in RAW if not (root / "raw" / file).is_file()]
    if missing:
        raise DataError(
            f"{root} lacks {PROCESSED} and raw/{', raw/'.join(missing)}: qm9 needs {EXPECTED}."
        )
    require("rdkit", "supervised")
    with (root / "raw" / RAW[0]).open("rb") as file:
        molecules = sum(line.startswith(b"$$$$") for line in file)
    with (root / "raw" / RAW[1]).open("rb") as file:
        rows = sum(1 for _ in file) - 1
    if molecules != rows:
        raise DataError(
            f"{root / 'raw'} has {molecules} molecules in {RAW[0]}, but {rows} rows in {RAW[1]}."
        )
