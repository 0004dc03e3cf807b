"""YAML and JSON of a stranger's folder: plain values of bounded size and depth, or none at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import yaml

from mtrl_fairgrad.utils.validation import bracket_depth

LARGEST = {".yaml": 2**17, ".json": 2**24}
"""Bytes of a file by its ending; ours have a few thousand."""
DEEPEST = 32
"""Mappings and lists within each other."""


def read_mapping(path: Path) -> dict[str, Any]:
    """What a file with a mapping holds: str keys, and dict, list, str, int, float, bool and None
    for values.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds anything else, or more than one of ours would.
    """
    if not path.is_file():  # opening a pipe would wait for its other end
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    limit = LARGEST[path.suffix]
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    try:
        found = json.loads(data) if path.suffix == ".json" else _parsed(data.decode())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"it cannot be parsed ({type(error).__name__})") from error
    if not isinstance(found, dict) or not is_plain(found):
        raise ValueError("it is no mapping of plain values")
    return found


def is_plain(value: object, levels: int = DEEPEST) -> bool:
    """Whether JSON could hold it, at most so deep."""
    if isinstance(value, dict):
        return levels > 0 and all(
            isinstance(key, str) and is_plain(each, levels - 1) for key, each in value.items()
        )
    if isinstance(value, list):
        return levels > 0 and all(is_plain(each, levels - 1) for each in value)
    return value is None or isinstance(value, (str, int, float))


def _parsed(text: str) -> object:
    if bracket_depth(text) > 2 * DEEPEST:  # names may have brackets of their own
        raise ValueError("it is too deep")
    return _Loader(text).get_single_data()


class _Loader(yaml.SafeLoader):
    """Without aliases, a few lines of which make billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Called for every node."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)
