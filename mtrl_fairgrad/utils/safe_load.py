"""Load untrusted YAML and JSON: plain values with limits on size and depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mtrl_fairgrad.utils.safe_files import read_bytes
from mtrl_fairgrad.utils.validation import bracket_depth

MAX_BYTES = {".yaml": 2**17, ".json": 2**24}
"""File suffix → largest size in bytes; files that training writes have a few thousand."""
MAX_DEPTH = 32
"""Nested mappings and lists."""
MAX_INTEGER = 2**64
"""Largest absolute value of an integer."""
_UNPARSED = (yaml.YAMLError, RecursionError, LookupError, AttributeError, ArithmeticError)
"""Errors of the parsers but ValueError: PyYAML raises the last three for scalars with wrong tags.
"""


def read_mapping(path: Path, root: Path | None = None) -> dict[str, Any]:
    """Load a file that contains a mapping of plain values.

    Args:
        path: the file; its suffix decides how it is parsed.
        root: see `mtrl_fairgrad.utils.safe_files`.

    Returns:
        str keys; values are dict, list, str, int, float, bool or None.

    Raises:
        OSError: the file cannot be read.
        RunFolderError: it is too large, not a regular file, or lies behind a link.
        ValueError: it contains anything else, or is too deeply nested.
    """
    data = read_bytes(path, MAX_BYTES[path.suffix], root)
    return parse_mapping(data, path.suffix)


def parse_mapping(data: bytes, suffix: str) -> dict[str, Any]:
    """Parse the content of a file with this suffix; see `read_mapping`."""
    if len(data) > MAX_BYTES[suffix]:
        raise ValueError(f"it has more than {MAX_BYTES[suffix]:,} bytes")
    try:
        content = json.loads(data) if suffix == ".json" else _parsed(data.decode())
    except _UNPARSED as error:
        raise ValueError(f"it cannot be parsed ({type(error).__name__})") from error
    if not isinstance(content, dict) or not is_plain(content):
        raise ValueError("it is not a mapping of plain values")
    return content


def is_plain(value: object, levels: int = MAX_DEPTH) -> bool:
    """Return whether JSON can represent `value` with at most `levels` nested containers."""
    if isinstance(value, dict):
        return levels > 0 and all(
            isinstance(key, str) and is_plain(each, levels - 1) for key, each in value.items()
        )
    if isinstance(value, list):
        return levels > 0 and all(is_plain(each, levels - 1) for each in value)
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER  # larger ones cannot be converted to floats
    return value is None or isinstance(value, (str, float))


def is_readable(value: object, levels: int = MAX_DEPTH) -> bool:
    """Return whether `value` comes back equal from a file: it is plain, and no NaN is in it."""
    return is_plain(value, levels) and json.loads(json.dumps(value)) == value


def _parsed(text: str) -> object:
    if bracket_depth(text) > 2 * MAX_DEPTH:  # strings may contain brackets
        raise ValueError("it is too deeply nested")
    return _Loader(text).get_single_data()


class _Loader(yaml.SafeLoader):
    """Safe loader without aliases, since a few lines of them expand to billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases; called for every node."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)
