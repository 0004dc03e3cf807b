"""Arrays through which sub-environments and vector environment exchange a step."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass
class Buffers:
    """One row per sub-environment (N rows, O observation entries, A action entries).

    `final_observations`, `returns`, `lengths`, both `..._until_success` and `successes` are written
    when an episode ends and are stale otherwise.
    """

    actions: NDArray[np.float32]  # [N, A], written by the learner, the others by the simulators
    observations: NDArray[np.float32]  # [N, O], at an episode's end the first of the next one
    final_observations: NDArray[np.float32]  # [N, O], the last one of the episode that ended
    rewards: NDArray[np.float64]  # [N]
    returns: NDArray[np.float64]  # [N], undiscounted sum of the episode
    lengths: NDArray[np.int64]  # [N], its steps
    returns_until_success: NDArray[np.float64]  # [N], the same up to its first success
    lengths_until_success: NDArray[np.int64]  # [N]
    goals: NDArray[np.int64]  # [N], goal of the running episode, -1 when idle
    terminated: NDArray[np.bool_]  # [N]
    truncated: NDArray[np.bool_]  # [N]
    success: NDArray[np.bool_]  # [N], whether this step succeeded
    successes: NDArray[np.bool_]  # [N], whether any step of the episode succeeded
    step_seconds: NDArray[np.float64]  # [N], mean processor time of a step, 0 before it is measured

    @staticmethod
    def size(rows: int, observation_size: int, action_size: int) -> int:
        """Return the number of bytes that `over` needs."""
        return sum(
            _bytes(shape, dtype)
            for shape, dtype in _layout(rows, observation_size, action_size).values()
        )

    @classmethod
    def over(cls, memory: Any, rows: int, observation_size: int, action_size: int) -> Self:
        """Create views into `memory`, a writable buffer of at least `size` bytes."""
        arrays, offset = {}, 0
        for name, (shape, dtype) in _layout(rows, observation_size, action_size).items():
            arrays[name] = np.frombuffer(memory, dtype, int(np.prod(shape)), offset).reshape(shape)
            offset += _bytes(shape, dtype)
        return cls(**arrays)


def _layout(
    rows: int, observation_size: int, action_size: int
) -> dict[str, tuple[Sequence[int], np.dtype[Any]]]:
    """Return shape and type of each array, in the order of the fields."""
    matrices = {
        "actions": (rows, action_size),
        "observations": (rows, observation_size),
        "final_observations": (rows, observation_size),
    }
    vectors = {
        **dict.fromkeys(("rewards", "returns", "returns_until_success", "step_seconds"), "f8"),
        **dict.fromkeys(("lengths", "lengths_until_success", "goals"), "i8"),
    }
    layout: dict[str, tuple[Sequence[int], np.dtype[Any]]] = {}
    for each in fields(Buffers):
        if each.name in matrices:
            layout[each.name] = (matrices[each.name], np.dtype("f4"))
        else:
            layout[each.name] = ((rows,), np.dtype(vectors.get(each.name, "?")))
    return layout


def _bytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Return the bytes of one array, rounded up to a cache line for alignment."""
    return -(-int(np.prod(shape)) * dtype.itemsize // 64) * 64
