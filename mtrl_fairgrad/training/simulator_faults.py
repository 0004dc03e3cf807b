"""Count transitions and evaluation episodes with numbers that are not finite, by seed and task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.config.guard import COUNT
from mtrl_fairgrad.runs.fault_log import EVALUATION, SIMULATOR, Fault
from mtrl_fairgrad.utils.file_schema import Count
from mtrl_fairgrad.utils.validation import MAX_COUNT, Bounds

ROLES = (SIMULATOR, EVALUATION)


class SavedFaults(TypedDict):
    """Counts as a checkpoint's state holds them, each `[2, S, K]`, simulators first."""

    counts: list[list[list[Count]]]
    first: list[list[list[Annotated[int, Bounds(-1, at_most=MAX_COUNT)]]]]
    """The first env_steps; −1 if there was none."""
    episodes: Count
    """Evaluation episodes of each task."""


class SimulatorFaults:
    """Counts of S seeds and K tasks.

    Args:
        seeds: the run's seeds.
        tasks: names, in the order of the task axis.
    """

    def __init__(self, seeds: Sequence[int], tasks: Sequence[str]) -> None:
        self._seeds, self._tasks = tuple(seeds), tuple(tasks)
        shape = len(ROLES), len(seeds), len(tasks)
        self._counts = np.zeros(shape, np.int64)
        self._first = np.full(shape, -1, np.int64)
        self._episodes = 0
        """Evaluation episodes of each task."""

    def count_transitions(self, bad: NDArray[np.bool_], env_steps: int) -> None:
        """Count the transitions of one step, `[S, E', K]`."""
        self._count(0, bad.sum(axis=1), env_steps)

    def count_episodes(self, bad: NDArray[np.bool_], env_steps: int) -> None:
        """Count the episodes of one evaluation, `[S, K, E]`."""
        self._episodes += bad.shape[2]
        self._count(1, bad.sum(axis=2), env_steps)

    def _count(self, role: int, numbers: NDArray[np.integer], env_steps: int) -> None:
        self._counts[role] += numbers
        self._first[role][(numbers > 0) & (self._first[role] < 0)] = env_steps

    def faults(self, env_steps: int) -> list[Fault]:
        """Return all faults of a run that is at `env_steps`."""
        totals = env_steps, self._episodes
        return [
            Fault(
                network=ROLES[role],
                condition="non_finite",
                seed=self._seeds[s],
                task=self._tasks[k],
                updates=int(self._counts[role, s, k]),
                # The step in progress is not part of env_steps.
                of_updates=max(totals[role], int(self._counts[role, s, k])),
                first_update=int(self._first[role, s, k]),
                response=COUNT,
            )
            for role, s, k in np.argwhere(self._counts).tolist()
        ]

    # ---- checkpoints ----

    def state(self) -> SavedFaults:
        """Return all counts."""
        return {
            "counts": self._counts.tolist(),
            "first": self._first.tolist(),
            "episodes": self._episodes,
        }

    def restore(self, saved: SavedFaults | None) -> None:
        """Continue from `state`; None in checkpoints of older versions.

        Raises:
            ValueError: it is of other seeds or tasks.
        """
        if saved is None:
            return
        try:
            self._counts[:], self._first[:] = _like(self._counts, saved["counts"], saved["first"])
            self._episodes = saved["episodes"]
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"the counts of faults are damaged in the checkpoint ({error!r}): "
                "use another checkpoint."
            ) from None


def _like(array: NDArray[np.int64], *lists: Any) -> list[NDArray[np.int64]]:
    """Convert nested lists to arrays of this shape; ValueError for another one."""
    arrays = [np.array(each, np.int64) for each in lists]
    if any(each.shape != array.shape for each in arrays):
        raise ValueError("another number of seeds or tasks")
    return arrays
