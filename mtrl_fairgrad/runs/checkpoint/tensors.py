"""The tensors of a checkpoint: written as safetensors, and read back once their digests and headers
are found right.
"""

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

_MORE = 8
"""How many times the bytes of a fresh learner a checkpoint may hold: moments and snapshots come on
top.
"""
_HEADERS = 2**20
_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def encoded(group: Mapping[str, Tensor]) -> bytes:
    """A group as the content of a safetensors file; tensors of any device and strides, aliases
    apart.
    """
    from safetensors.torch import save

    seen: set[int] = set()
    stored: dict[str, Tensor] = {}
    for key, tensor in group.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        stored[key] = (
            plain.clone() if storage in seen else plain
        )  # safetensors refuses shared memory
        seen.add(storage)
    return save(stored)


def read(
    folder: Path, index: Index, groups: Collection[str] | None = None, like: Groups | None = None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The groups, all or those named, and the state of a checkpoint, once every file is found
    sound.

    Args:
        folder: of the checkpoint.
        index: of it.
        groups: which; None for all.
        like: see `CheckpointStore.resume`.

    Raises:
        CheckpointError: a file is damaged or missing.
        RunFolderError: it is a checkpoint of something else.
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
            _check_fit(folder, index, paths, like)
        # Not load_file, which maps the file: a file truncated later would kill this process.
        tensors = {group: load(path.read_bytes()) for group, path in paths.items()}
        found = json.loads(state.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("state.json")
        return tensors, found
    except RunFolderError:
        raise
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is not a checkpoint of ours ({error})") from None


def _check_fit(folder: Path, index: Index, paths: Mapping[str, Path], like: Groups) -> None:
    """Compare headers, and nothing but headers, with what is needed."""
    from safetensors import safe_open

    needed = sum(tensor.nbytes for group in like.values() for tensor in group.values())
    held = sum(index.files[path.name].bytes for path in paths.values())
    if held > _MORE * needed + _HEADERS:
        raise misfit(folder, f"it holds {held} bytes where {needed} are needed")
    for group, tensors in like.items():
        if group not in paths:
            raise misfit(folder, f"it has no {group}")
        with safe_open(paths[group], framework="pt") as file:
            names = set(file.keys())
            for name, tensor in tensors.items():
                found = file.get_slice(name) if name in names else None
                what = "nothing" if found is None else f"{found.get_dtype()} {found.get_shape()}"
                must = (
                    f"{_TYPES.get(str(tensor.dtype).removeprefix('torch.'))} {list(tensor.shape)}"
                )
                if what != must:
                    raise misfit(folder, f"{group}/{name} is {what} and not {must}")


def misfit(folder: Path, reason: str) -> RunFolderError:
    """The error to raise for a sound checkpoint that is of something else."""
    return RunFolderError(
        f"{folder} does not fit this run ({reason}): resume with the configuration the run was "
        "started with."
    )
