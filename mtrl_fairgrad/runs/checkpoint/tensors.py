"""The tensors of a checkpoint as safetensors, read after verifying checksums and headers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_fairgrad.runs.checkpoint.index import CheckpointError, Index
from mtrl_fairgrad.utils.atomic_io import RunFolderError

if TYPE_CHECKING:  # torch takes a second to import
    from torch import Tensor

Groups = Mapping[str, Mapping[str, "Tensor"]]

_LARGEST_RATIO = 8
"""Largest size of a checkpoint relative to a new learner's, which has no moments yet."""
_HEADERS = 2**20
"""Bytes allowed for the headers of safetensors files."""
_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def encode(group: Mapping[str, Tensor]) -> bytes:
    """Serialise tensors of any device and strides, even with shared memory, as safetensors."""
    from safetensors.torch import save

    seen: set[int] = set()
    stored: dict[str, Tensor] = {}
    for key, tensor in group.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory.
        stored[key] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return save(stored)


def read(
    folder: Path,
    index: Index,
    groups: Collection[str] | None = None,
    like: Groups | None = None,
    more: int = 0,
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read tensors and state of a checkpoint, after verifying every file.

    Args:
        folder: folder of the checkpoint.
        index: index of the checkpoint.
        groups: which groups of tensors to read; None for all.
        like: see `CheckpointStore.resume`.
        more: see `CheckpointStore.resume`.

    Raises:
        CheckpointError: a file is damaged or missing.
        RunFolderError: the checkpoint is of another configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    stored = index.groups()
    wanted = stored if groups is None else sorted(groups)
    if not set(stored).issuperset(wanted):
        raise CheckpointError(
            f"{folder} holds {', '.join(stored)} and not all of {', '.join(wanted)}"
        )
    paths = {group: index.check(folder, f"{group}.safetensors") for group in wanted}
    state = index.check(folder, "state.json")
    try:
        if like is not None:
            _check_fit(folder, index, paths, like, more)
        # Not load_file, which maps the file: a file truncated later would kill this process.
        tensors = {group: load(path.read_bytes()) for group, path in paths.items()}
        values = json.loads(state.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("state.json")
        return tensors, values
    except RunFolderError:
        raise
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is not a valid checkpoint ({error})") from None


def _check_fit(
    folder: Path, index: Index, paths: Mapping[str, Path], like: Groups, more: int
) -> None:
    """Compare the files' headers with the expected tensors, without reading data."""
    from safetensors import safe_open

    needed = sum(tensor.nbytes for group in like.values() for tensor in group.values())
    held = sum(index.files[path.name].bytes for path in paths.values())
    if held > _LARGEST_RATIO * needed + _HEADERS + more:
        raise mismatch(folder, f"it holds {held} bytes, but {needed} are needed")
    for group, tensors in like.items():
        if group not in paths:
            raise mismatch(folder, f"it has no {group}")
        with safe_open(paths[group], framework="pt") as file:
            names = set(file.keys())
            for name, tensor in tensors.items():
                part = file.get_slice(name) if name in names else None
                stored = "missing" if part is None else f"{part.get_dtype()} {part.get_shape()}"
                dtype = str(tensor.dtype).removeprefix("torch.")
                expected = f"{_TYPES.get(dtype)} {list(tensor.shape)}"
                if stored != expected:
                    raise mismatch(folder, f"{group}/{name} is {stored}, not {expected}")


def mismatch(folder: Path, reason: str) -> RunFolderError:
    """Make the error for an intact checkpoint of another configuration."""
    return RunFolderError(
        f"{folder} does not fit this run ({reason}): "
        "resume with the configuration the run was started with."
    )
