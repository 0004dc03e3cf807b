# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names come from compiled modules.)
"""MuJoCo's data with its named parts looked up once."""

from collections.abc import Callable
from typing import Any

import mujoco


class Named:
    """One body, geom, site or joint; reads each array of MuJoCo's accessor once.

    The arrays are views that stay valid.
    """

    def __init__(self, accessor: Any) -> None:
        self.__dict__["_accessor"] = accessor

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__[name] = getattr(self._accessor, name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._accessor, name, value)  # writes to the memory that all views share


class _Table(dict[str, Named]):
    """Name -> `Named`, created on first use."""

    def __init__(self, accessor: Callable[[str], Any]) -> None:
        self._accessor = accessor

    def __missing__(self, name: str) -> Named:
        named = self[name] = Named(self._accessor(name))
        return named


class NamedData(mujoco.MjData):
    """`MjData` whose `body`, `geom`, `site` and `joint` look names up in a table.

    Call `forget` when it is no longer needed: the tables' arrays keep it alive, which the garbage
    collector cannot detect.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model)
        for kind in ("body", "geom", "site", "joint"):
            self.__dict__[kind] = _Table(getattr(super(), kind)).__getitem__
        self.forget = self.__dict__.clear
