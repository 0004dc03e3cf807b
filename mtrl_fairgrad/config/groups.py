"""Read the Hydra groups under configs/ without importing Hydra or PyTorch."""

from __future__ import annotations

import functools
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import yaml

from mtrl_fairgrad.utils.validation import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]


def config_dir() -> Path:
    """Return the folder of the Hydra groups: the wheel's inside the package, or the checkout's.

    Only wheels have the first one. It is preferred because in site-packages a folder `configs` next
    to the package would belong to another distribution.

    Raises:
        ConfigError: neither exists.
    """
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise ConfigError(f"the configuration files of {PACKAGE} are missing: reinstall mtrl-fairgrad.")


def chosen_groups(root: str) -> dict[str, str]:
    """Return group → default choice of the groups that a command line may choose from.

    Args:
        root: primary file of configs/, without `.yaml`.
    """
    primary = yaml.safe_load((config_dir() / f"{root}.yaml").read_text(encoding="utf-8"))
    entries = cast(list[Any], primary["defaults"])
    return {
        group: choice
        for entry in entries
        if isinstance(entry, dict)
        for group, choice in cast(dict[str, str], entry).items()
        if group.isidentifier()  # not `override …`, `optional …` or `…@…`
    }


def config_group(group: str) -> dict[str, dict[str, Any]]:
    """Return name → keys and values of each choice of a group, sorted by name.

    The group `method` also contains methods without a file, see `methods_without_file`; a test
    checks that the files agree with the registry of `mtrl_fairgrad.weighting`.
    """
    choices = {name: dict(keys) for name, keys in _files(group).items()}
    if group == "method":
        choices |= methods_without_file()
    return dict(sorted(choices.items()))


def methods_without_file() -> dict[str, dict[str, Any]]:
    """Return name → keys of methods of other packages, as a YAML file would contain them.

    Includes methods registered in this process, with their options, and methods of entry points,
    with `name` only, because their code is not imported.
    """
    methods: dict[str, dict[str, Any]] = {
        point.name: {"name": point.name} for point in entry_points(group="mtrl_fairgrad.methods")
    }
    # Registering a method imports the registry, and with it PyTorch.
    if "mtrl_fairgrad.weighting" in sys.modules:
        from mtrl_fairgrad.weighting import method_names

        methods |= {name: method_keys(name) for name in method_names() if name not in methods}
    return {name: keys for name, keys in methods.items() if name not in _files("method")}


def method_keys(name: str) -> dict[str, Any]:
    """Return what a method's YAML file would contain: `name` and the defaults; imports PyTorch."""
    from mtrl_fairgrad.weighting import method_options

    return {"name": name, **method_options(name)}


@functools.cache
def _files(group: str) -> dict[str, dict[str, Any]]:
    paths = (config_dir() / group).glob("*.yaml")
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths}
