"""Options in Python as words of the command line, so that both mean and store the same."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mtrl_fairgrad.cli.hydra_main import compose_config
from mtrl_fairgrad.config.groups import config_dir
from mtrl_fairgrad.config.schema import Config, flatten, to_dict, without_torch
from mtrl_fairgrad.utils.arguments import override
from mtrl_fairgrad.utils.validation import ConfigError

CHOSEN = ("env", "agent", "method", "convention")
"""Groups whose choice is the option `name` of a configuration."""


def to_overrides(options: Mapping[str, Any]) -> list[str]:
    """Return the words of keyword arguments.

    Args:
        options: name -> value. A mapping stands for options of a group, whose choice is its
            `name`: `env={"name": "mt10", "copies": 8}` is `env=mt10 env.copies=8`.

    Raises:
        ConfigError: a value that no option takes.
    """
    words: list[str] = []
    for key, value in options.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        if not isinstance(value, Mapping):
            words.append(f"{key}={_text(key, value)}")
            continue
        is_group = os.path.isdir(config_dir() / key)
        for name, each in value.items():
            chooses = is_group and name == "name"
            words.append(f"{key if chooses else f'{key}.{name}'}={_text(f'{key}.{name}', each)}")
    return words


def config_overrides(config: Config) -> list[str]:
    """Return the words that compose to a configuration: its choices, and what differs from them.

    Raises:
        ConfigError: it holds a choice that does not exist.
    """
    wanted = to_dict(config)
    words = [f"{group}={wanted[group]['name']}" for group in CHOSEN]
    words.append(f"preset={config.preset}")
    composed = flatten(to_dict(without_torch(compose_config(words))))
    return [
        *words,
        *(
            f"{key}={_text(key, value)}"
            for key, value in flatten(wanted).items()
            if not (key in composed and composed[key] == value)
        ),
    ]


def _text(key: str, value: Any) -> str:
    """Return a value in Hydra's grammar.

    Raises:
        ConfigError: it has none.
    """
    if hasattr(value, "tolist"):  # a number or array of NumPy, or a tensor
        value = value.tolist()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, Path)):
        return override("", value).removeprefix("=")
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_text(key, each)}" for name, each in value.items()) + "}"
    if isinstance(value, Iterable):
        return "[" + ",".join(_text(key, each) for each in value) + "]"
    raise ConfigError(
        f"{key}={value!r} is not allowed: give a number, text, true or false, None, or a list or "
        "mapping of these.",
        key,
        value,
    )
