"""Names of the agent's networks: the built-in ones and those that other programs register.

Nothing here imports PyTorch. A package offers networks to the command line by an entry point in its
`pyproject.toml`, which is imported only if `agent.network` names it:

    [project.entry-points."mtrl_fairgrad.networks"]
    my_network = "my_package.module:MyNetwork"
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from mtrl_fairgrad.utils.validation import ConfigError

BUILT_IN = ("mlp", "bronet")
ENTRY_POINT_GROUP = "mtrl_fairgrad.networks"

Factory = Callable[..., Any]
"""Makes a module of `inputs`, `outputs`, `width` and `depth`."""

_registered: dict[str, Factory] = {}


def network_names() -> tuple[str, ...]:
    """Return the values that `agent.network` may have."""
    others = {*_registered, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}
    return (*BUILT_IN, *sorted(others - set(BUILT_IN)))


def check_new_name(name: object) -> str:
    """Return a name that a network may be registered under.

    Raises:
        ConfigError: it is no identifier, or that of a built-in network.
    """
    if not isinstance(name, str) or not name.isidentifier() or name in BUILT_IN:
        raise ConfigError(
            f"name={name!r} is not allowed: give an identifier other than "
            f"{' and '.join(BUILT_IN)}.",
            "name",
            name,
        )
    return name


def add_network(name: str, factory: Factory) -> None:
    """Make a network available by its name, in place of one that was registered before."""
    _registered[name] = factory


def custom_factory(name: str) -> Factory | None:
    """Return what makes a network that is not built in; None for a built-in one.

    Raises:
        ConfigError: the entry point cannot be imported.
    """
    if name in BUILT_IN or name in _registered:
        return _registered.get(name)
    [point, *_] = entry_points(group=ENTRY_POINT_GROUP, name=name)
    try:
        return point.load()
    except Exception as error:
        raise ConfigError(
            f"agent.network={name} cannot be imported from {point.value} ({error}): "
            "repair or remove the package that declares it.",
            "agent.network",
            name,
        ) from error
