"""Options that run folders of older versions lack, with the values that those versions used.

An option that changes how a run trains or measures needs an entry here: a run that was started
without it then resumes, evaluates and reports as before, whatever the default is now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

VALUES: Mapping[str, Any] = {
    "agent.twin_loss": "mean",
    "agent.temperature_loss": "log",
    "agent.own_gradients": "plain",
    "eval.full_episodes": False,
}
"""`group.name` -> the value that a configuration without the key stands for."""


def method_values(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same for the options of a stored method, by name."""
    return {"sgd_precision": "float64"} if method.get("name") == "fairgrad" else {}


def missing_options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a stored configuration lacks and their values, by `group.name`.

    A configuration without the whole group, such as that of a supervised run, lacks nothing.
    """
    method = stored.get("method")
    values = dict(VALUES)
    if isinstance(method, Mapping):
        of_method = method_values(cast("Mapping[str, Any]", method))
        values |= {f"method.{name}": value for name, value in of_method.items()}
    missing: dict[str, Any] = {}
    for key, value in values.items():
        group, _, name = key.partition(".")
        options = stored.get(group)
        if isinstance(options, Mapping) and name not in options:
            missing[key] = value
    return missing


def complete(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a stored configuration in which none of these options is missing."""
    completed = dict(stored)
    for key, value in missing_options(stored).items():
        group, _, name = key.partition(".")
        completed[group] = {**completed[group], name: value}
    return completed
