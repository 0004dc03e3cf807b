# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names come from compiled modules.)
"""Cache of resets: the state after a reset is copied back instead of simulated again."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

CAPACITY = 50
"""Number of resets that are cached for an environment, one per goal; about 60 KB each."""
CHANGED = ("body_pos", "site_pos")
"""Arrays of the model that resets write to."""
SKIPPED = frozenset({"bvh_active"})
"""Unused arrays: three quarters of the data, for drawing bounding boxes."""


class Entry(NamedTuple):
    """State after one reset."""

    attributes: dict[str, Any]
    """Attributes of the environment that the reset assigned; views into the data stay views."""
    arrays: list[NDArray[Any]]
    time: float
    answer: tuple[NDArray[np.float64], dict[str, Any]]


class Resets:
    """States after an environment's resets, by a key of all that they depend on.

    In the official code, only the place where push draws its goal until the first step also depends
    on the previous episode.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._data = data
        self._arrays = [getattr(model, name) for name in CHANGED] + _arrays(data)
        self._entries: dict[Any, Entry] = {}

    def reset(
        self, environment: Any, key: Any, reset: Callable[[], Any]
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Return what `reset` returns: by calling it the first time, from memory later."""
        entry = self._entries.get(key)
        if entry is None:
            assigned, (observation, info) = _recorded(environment, reset)
            if len(self._entries) < CAPACITY:
                arrays = [each.copy() for each in self._arrays]
                attributes = {name: getattr(environment, name) for name in assigned}
                self._entries[key] = Entry(
                    attributes, arrays, self._data.time, (observation.copy(), info)
                )
            return observation, info
        for array, saved in zip(self._arrays, entry.arrays, strict=True):
            np.copyto(array, saved)
        self._data.time = entry.time
        environment.__dict__.update(entry.attributes)
        observation, info = entry.answer
        return observation.copy(), dict(info)


def _arrays(data: mujoco.MjData) -> list[NDArray[Any]]:
    """Return views of all arrays in the data's own memory: state and what is derived from it.

    Contacts and constraints are elsewhere, in an arena that each step fills anew.
    """
    start = data.qpos.ctypes.data
    every = {
        name: getattr(data, name)
        for name in dir(data)
        if not name.startswith("_") and name not in SKIPPED
    }
    return [
        array
        for array in every.values()
        if isinstance(array, np.ndarray)
        and array.size
        and start <= array.ctypes.data < start + data.nbuffer
    ]


def _recorded(environment: Any, action: Callable[[], Any]) -> tuple[set[str], Any]:
    """Call `action`; return the names of the attributes it assigned, and its result."""
    kind, names = type(environment), set[str]()
    environment.__dict__["_assigned"] = names
    environment.__class__ = _recording(kind)
    try:
        answer = action()
    finally:
        environment.__class__ = kind
        del environment._assigned
    return names, answer


@cache
def _recording(kind: type) -> type:
    """Return a subclass of `kind` that records which attributes are assigned."""

    def note(self: Any, name: str, value: Any) -> None:
        self._assigned.add(name)
        object.__setattr__(self, name, value)

    return type(kind.__name__, (kind,), {"__setattr__": note})
