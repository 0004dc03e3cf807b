"""The tensors of a checkpoint as safetensors, read after verifying checksums and headers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_fairgrad.runs.checkpoint.index import CheckpointError, Index, run_of
from mtrl_fairgrad.utils.atomic_io import RunFolderError
from mtrl_fairgrad.utils.free_memory import free_memory
from mtrl_fairgrad.utils.safe_files import read_bytes

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
    extra_bytes: int = 0,
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read tensors and state of a checkpoint, after verifying every file.

    Args:
        folder: folder of the checkpoint.
        index: index of the checkpoint.
        groups: which groups of tensors to read; None for all.
        like: see `CheckpointStore.resume`.
        extra_bytes: see `CheckpointStore.resume`.

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
    _check_size(folder, index, wanted, like, extra_bytes)
    paths = {group: index.check(folder, f"{group}.safetensors") for group in wanted}
    state = index.check(folder, "state.json")

    def content(path: Path) -> bytes:
        return read_bytes(path, index.files[path.name].bytes, run_of(folder))

    try:
        if like is not None:
            _check_fit(folder, paths, like)
        # Not load_file, which maps the file: a file truncated later would kill this process.
        tensors = {group: load(content(path)) for group, path in paths.items()}
        values = json.loads(content(state))
        if not isinstance(values, dict):
            raise ValueError("state.json")
        return tensors, values
    except RunFolderError:
        raise
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is not a valid checkpoint ({error})") from None


def _check_size(
    folder: Path, index: Index, wanted: Collection[str], like: Groups | None, extra_bytes: int
) -> None:
    """Check that the tensors fit the expected ones or the memory, before files are read."""
    held = sum(index.files[f"{group}.safetensors"].bytes for group in wanted)
    if like is not None:
        needed = sum(tensor.nbytes for group in like.values() for tensor in group.values())
        if held > _LARGEST_RATIO * needed + _HEADERS + extra_bytes:
            raise mismatch(folder, f"it holds {held} bytes, but {needed} are needed")
    free = free_memory()
    if free is not None and held > free:
        raise CheckpointError(
            f"{folder} holds {held} bytes, but only {free} bytes of memory are free"
        )


def _check_fit(folder: Path, paths: Mapping[str, Path], like: Groups) -> None:
    """Compare the files' headers with the expected tensors, without reading data."""
    from safetensors import safe_open

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
