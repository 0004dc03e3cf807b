"""The files of configs/: what may be chosen from them, read without PyTorch."""

from __future__ import annotations

import functools
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from mtrl_fairgrad.utils.validation import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]


def config_dir() -> Path:
    """The folder of the Hydra groups: the checkout's, else the one a wheel carries."""
    for folder in (PACKAGE.parent / "configs", PACKAGE / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(
        f"the configuration files are missing beside {PACKAGE}: install mtrl-fairgrad again."
    )


def config_group(group: str) -> dict[str, dict[str, Any]]:
    """What `group=` may choose, by name in alphabetical order: the keys that it sets, with their
    values.

    Methods are what the registry of `mtrl_fairgrad.weighting` says. A test holds that the files say
    the same, so that PyTorch need not be imported to ask it; what has no file has its defaults.
    """
    found = {name: dict(keys) for name, keys in _files(group).items()}
    if group == "method":
        found |= unwritten_methods()
    return dict(sorted(found.items()))


@functools.cache
def _files(group: str) -> dict[str, dict[str, Any]]:
    paths = (config_dir() / group).glob("*.yaml")
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths}


def unwritten_methods() -> dict[str, dict[str, Any]]:
    """Registered methods without a file of their own: name → what such a file would say."""
    written = _files("method").keys()
    # Methods are registered by code that imported the registry, or by entry points, whose names
    # are known without PyTorch. The built-in methods have files.
    if "mtrl_fairgrad.weighting" not in sys.modules and not entry_points(
        group="mtrl_fairgrad.methods"
    ):
        return {}
    from mtrl_fairgrad.weighting import method_names, method_options

    return {
        name: {"name": name, **method_options(name)}
        for name in method_names()
        if name not in written
    }
