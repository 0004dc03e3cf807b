# pyright: reportAttributeAccessIssue=false
# (MuJoCo's names come from compiled modules.)
"""Resets remembered: what a reset leaves behind is copied back instead of simulated again."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

CAPACITY = 50
"""Resets that an environment remembers, one of each of its goals; about 60 KB each."""
CHANGED = ("body_pos", "site_pos")
"""The arrays of the model that resets write to."""
SKIPPED = frozenset({"bvh_active"})
"""Arrays that nothing reads: three quarters of the data, for drawing bounding boxes."""


class Entry(NamedTuple):
    """What one reset left behind."""

    attributes: dict[str, Any]
    """The environment's attributes that it assigned; those that are views into the data stay views.
    """
    arrays: list[NDArray[Any]]
    time: float
    answer: tuple[NDArray[np.float64], dict[str, Any]]


class Resets:
    """What the resets of one environment leave behind, by a key that says all they depend on.

    Officially one thing depends on the episode before as well: where push's goal is drawn until the
    first step.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._data = data
        self._arrays = [getattr(model, name) for name in CHANGED] + _arrays(data)
        self._entries: dict[Any, Entry] = {}

    def reset(
        self, environment: Any, key: Any, reset: Callable[[], Any]
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """What `reset` answers: by calling it the first time, from memory later."""
        found = self._entries.get(key)
        if found is None:
            assigned, (observation, info) = _recorded(environment, reset)
            if len(self._entries) < CAPACITY:
                arrays = [each.copy() for each in self._arrays]
                attributes = {name: getattr(environment, name) for name in assigned}
                self._entries[key] = Entry(
                    attributes, arrays, self._data.time, (observation.copy(), info)
                )
            return observation, info
        for array, saved in zip(self._arrays, found.arrays, strict=True):
            np.copyto(array, saved)
        self._data.time = found.time
        environment.__dict__.update(found.attributes)
        observation, info = found.answer
        return observation.copy(), dict(info)


def _arrays(data: mujoco.MjData) -> list[NDArray[Any]]:
    """Views of all that lies in the data's own memory: state and whatever was derived from it.

    Contacts and constraints lie elsewhere, in an arena that each step fills anew.
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
    """Call `action`; the names of the attributes of `environment` that it assigned, and its answer."""
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
    """`kind` that notes which attributes are assigned."""

    def note(self: Any, name: str, value: Any) -> None:
        self._assigned.add(name)
        object.__setattr__(self, name, value)

    return type(kind.__name__, (kind,), {"__setattr__": note})
