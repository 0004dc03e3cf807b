"""Options that run folders of older versions lack, or store with another type.

An option that changes how a run trains or measures needs an entry here: a run that was started
without it then resumes, evaluates and reports as before, with the value that its version used,
whatever the default is now. An option of the agent whose default leaves everything as it was needs
none: a run without it has this default, whatever a preset says now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.config.env import EnvConfig

VALUES: Mapping[str, Any] = {
    "agent.twin_loss": "mean",
    "agent.temperature_loss": "log",
    "agent.own_gradients": "plain",
    "eval.full_episodes": False,
    "precision": "fp32",
    "logger": ["tensorboard"],
}
"""`group.name`, or `name` at the top level -> the value for which a configuration without the key
stands.
"""
RETYPED = ("compile", "cuda_graph")
"""Options of the top level that were true or false, with the default false, and are words now."""
REMOVED = ("grace_seconds",)
"""Options of the top level that had no effect on results and are gone."""
_UNCHANGED = {
    **{
        f"env.{name}": getattr(EnvConfig(), name) for name in ("copies", "stagger", "train_horizon")
    },
    **{f"agent.{name}": value for name, value in dataclasses.asdict(AgentConfig()).items()},
}
"""Options whose default leaves everything as it was before they existed."""


def method_values(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for the options of a stored method, by name."""
    return {"sgd_precision": "float64"} if method.get("name") == "fairgrad" else {}


def missing_options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a stored configuration lacks and their values, by `group.name`.

    A configuration without the whole group, or without an agent, such as that of a supervised run,
    lacks nothing.
    """
    method = stored.get("method")
    values = {**_UNCHANGED, **VALUES}
    if isinstance(method, Mapping):
        of_method = method_values(cast("Mapping[str, Any]", method))
        values |= {f"method.{name}": value for name, value in of_method.items()}
    missing: dict[str, Any] = {}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        options = stored.get(group) if group else stored
        known = isinstance(stored.get(group or "agent"), Mapping)
        if known and isinstance(options, Mapping) and name not in options:
            missing[key] = value
    return missing


def complete(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a stored configuration in which all these options are as they are now."""
    completed = {key: value for key, value in stored.items() if key not in REMOVED}
    for key, value in missing_options(stored).items():
        group, _, name = key.rpartition(".")
        if group:
            completed[group] = {**completed[group], name: value}
        else:
            completed[name] = value
    for key in RETYPED:
        if isinstance(stored.get(key), bool):
            completed[key] = str(stored[key]).lower()
    return completed
