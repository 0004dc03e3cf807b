"""Folder names of a sweep's runs: short, readable, and a function of the run's own overrides alone.

`method=nash_mtl seeds=[0,1] agent.width=64` is `nash_mtl-seeds0_1-width64-3f2a9c71`. The end is a
hash of all overrides, so that names differ even where the readable part has left something out. A
run keeps its name when a sweep is repeated or extended.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import fields

from omegaconf import OmegaConf

from mtrl_fairgrad.config.groups import config_dir
from mtrl_fairgrad.config.schema import RESUMABLE, Config

MAX_LENGTH = 64
"""Characters of a name; file systems allow 255 bytes, and a path consists of several names."""
MAX_PART_LENGTH = 24
"""Characters of one override in a name."""
HASH_LENGTH = 8

_UNNAMED_KEYS = RESUMABLE - {"steps"} | {"run_dir"}
"""Options that are left out of a run's name, since they do not change its results."""
_FIRST_KEYS = (
    *("benchmark", "method", "alpha", "loss_alpha", "seeds"),
    *("env", "env.task", "env.tasks", "agent"),
)
_KEY_ORDER = {
    key: position
    for position, key in enumerate(
        dict.fromkeys([*_FIRST_KEYS, *(field.name for field in fields(Config))])
    )
}

_MAX_OLD_LENGTH = 150
"""Characters of a name in version 0.1."""
_OLD_KEY_ORDER = {field.name: position for position, field in enumerate(fields(Config))}


def run_name(overrides: Sequence[str]) -> str:
    """Return the folder name of the run with these overrides.

    It consists of ASCII letters, digits, `.`, `_` and `-`, and starts with a letter or digit.
    """
    # Hydra writes steps=1e6 as steps=1000000.0.
    named = [re.sub(r"(?<=[=,\[])(-?\d+)\.0(?=$|[,\]])", r"\1", word) for word in _named(overrides)]
    named.sort(key=lambda word: (_KEY_ORDER.get(_key(word), len(_KEY_ORDER)), word))
    unquoted = "\n".join(sorted(re.sub(r"[\[\]'\"\s]", "", word) for word in named))
    name = ""
    for part in filter(None, map(_part, named)):
        longer = f"{name}-{part}" if name else part
        if len(longer) > MAX_LENGTH - HASH_LENGTH - 1:
            break
        name = longer
    return f"{name or 'run'}-{hashlib.sha256(unquoted.encode()).hexdigest()[:HASH_LENGTH]}"


def old_run_name(overrides: Sequence[str]) -> str:
    """Return the name in version 0.1, whose sweeps continue in their folders."""
    named = _named(overrides)
    named.sort(key=lambda word: (_OLD_KEY_ORDER.get(_key(word), len(_OLD_KEY_ORDER)), word))
    unquoted = re.sub(r"[\[\]{}'\"\s]", "", ",".join(named))
    name = re.sub(r"[^\w.,=+@%-]", "_", unquoted) or "run"
    if len(name) <= _MAX_OLD_LENGTH:
        return name
    return f"{name[: _MAX_OLD_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def _named(overrides: Sequence[str]) -> list[str]:
    return [word for word in dict.fromkeys(overrides) if _key(word) not in _UNNAMED_KEYS]


def _key(word: str) -> str:
    return word.partition("=")[0]


def _part(word: str) -> str:
    """Return one override in a name: a group's choice alone, else the option's last word and value.

    Tasks are shown without the module that registers them.
    """
    key, _, value = word.partition("=")
    option = key.lstrip("+").rpartition(".")[2]
    is_group = os.path.isdir(config_dir() / key) or key == "env.task"
    value = re.sub(r"[\w.\\]+:(?=\w)", "", value).strip("[]'\" ")
    separator = "_" if value[:1].isalpha() else ""
    text = value if is_group else f"{option}{separator}{value}"
    plain = re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_.")
    return plain[:MAX_PART_LENGTH].rstrip("_.")
