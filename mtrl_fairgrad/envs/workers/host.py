"""Run several sub-environments in turn, in a worker process or in the learner's process."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mtrl_fairgrad.envs.suite import SubEnvironment, Suite
from mtrl_fairgrad.envs.workers.shared_memory import Buffers

SAMPLING = 7
"""Steps of which one is timed; a prime, so that ends of episodes are timed as often as they come.
"""
WINDOW = 1000
"""Timed steps over which the mean is taken, roughly."""


@dataclass(frozen=True)
class Slot:
    """Position of a sub-environment."""

    index: int
    """Row in the buffers."""
    task: str
    identity: int
    """Index of the task."""
    seed: int
    copy: int = 0
    """Which of the simulators of this task and seed."""
    half: int = 0
    """Which half of the simulators, 0 or 1, it is stepped with."""
    first_share: float = 1.0
    """See `SubEnvironment.first_share`."""

    def __str__(self) -> str:
        return f"task {self.task}, seed {self.seed}" + (f", copy {self.copy}" if self.copy else "")


class SubEnvironmentError(RuntimeError):
    """A sub-environment raised: its exception is the cause; the message names task and seed."""


class Host:
    """The sub-environments of some rows. A command visits all and writes results to the buffers."""

    def __init__(self, rows: list[Slot], suite: Suite, role: str, buffers: Buffers) -> None:
        self._suite, self._role, self._buffers = suite, role, buffers
        self._stepped: Counter[int] = Counter()
        """Steps of each half."""
        self._commands: dict[str, Callable[[Any], Any]] = {
            "step": self._step,
            "reset": self._reset,
            "get_state": self._get_state,
            "set_state": self._set_state,
            "place": self._place,
            "pause": self._pause,
            "adopt": self._adopt,
            "drop": self._drop,
        }
        self._environments: dict[Slot, SubEnvironment] = {}
        for row in rows:
            self._build(row)

    def _build(self, row: Slot) -> None:
        try:
            made = self._suite.make(row.task, row.seed, row.identity, self._role, copy=row.copy)
            made.first_share = row.first_share
            self._environments[row] = made
        except Exception as error:
            raise SubEnvironmentError(str(row)) from error

    def run(self, command: str, payload: Any = None) -> Any:
        """Execute a command, one of `_commands`.

        Args:
            command: name of the command.
            payload: `step`: the half; `reset`: row -> goals, or None; `set_state`: row -> state;
                `place`: row -> arguments of `SubEnvironment.place`; `pause`: rows to pause;
                `adopt`: slot -> state, of sub-environments to build; `drop`: rows to forget.

        Returns:
            `get_state`: row -> state; `set_state`, `adopt`: row -> True for rows that were not
            reproduced; otherwise None.

        Raises:
            SubEnvironmentError: a sub-environment raised.
        """
        return self._commands[command](payload)

    def _step(self, half: int) -> None:
        number = self._stepped[half] = self._stepped[half] + 1
        timed = number % SAMPLING == 0
        self._each(self._timed_step if timed else self._step_one, half)

    def _timed_step(self, row: Slot, environment: SubEnvironment) -> None:
        """Step, and update the mean of the processor time that this takes."""
        idle, started = environment.idle, time.thread_time()
        self._step_one(row, environment)
        taken, i, mean = time.thread_time() - started, row.index, self._buffers.step_seconds
        if not idle:
            # It goes on from what another worker measured, if the sub-environment was moved.
            timed = min(self._stepped[row.half] // SAMPLING, WINDOW)
            mean[i] += (taken - mean[i]) / timed if mean[i] else taken

    def _step_one(self, row: Slot, environment: SubEnvironment) -> None:
        buffers, i = self._buffers, row.index
        if environment.idle:
            buffers.rewards[i] = 0.0
            buffers.terminated[i] = buffers.truncated[i] = buffers.success[i] = False
            return
        reward, terminated, truncated, success = environment.step(buffers.actions[i])
        buffers.rewards[i] = reward
        buffers.terminated[i], buffers.truncated[i], buffers.success[i] = (
            terminated,
            truncated,
            success,
        )
        if terminated or truncated:
            buffers.final_observations[i] = environment.observation
            buffers.returns[i], buffers.successes[i] = environment.returned, environment.succeeded
            buffers.lengths[i] = environment.elapsed
            buffers.returns_until_success[i] = environment.returned_until_success
            buffers.lengths_until_success[i] = environment.elapsed_until_success
            environment.begin()
            buffers.goals[i] = environment.goal
        buffers.observations[i] = environment.observation

    def _reset(self, goals: dict[int, list[int]] | None) -> None:
        self._each(
            lambda row, environment: environment.play(None if goals is None else goals[row.index])
        )
        self._each(self._publish)

    def _place(self, positions: dict[int, tuple[dict[str, Any] | None, int]]) -> None:
        self._each(lambda row, environment: environment.place(*positions[row.index]))

    def _pause(self, rows: frozenset[int]) -> None:
        for row, environment in self._environments.items():
            environment.paused = row.index in rows

    def _get_state(self, _: None) -> dict[int, dict[str, Any]]:
        return {
            row.index: environment.get_state() for row, environment in self._environments.items()
        }

    def _set_state(self, states: dict[int, dict[str, Any]]) -> dict[int, bool]:
        not_reproduced = self._restore(states)
        self._each(self._publish)
        return not_reproduced

    def _restore(self, states: dict[int, dict[str, Any]]) -> dict[int, bool]:
        """Restore the rows in `states`; return those that were not reproduced."""
        not_reproduced: dict[int, bool] = {}

        def visit(row: Slot, environment: SubEnvironment) -> None:
            if row.index in states and not environment.set_state(states[row.index]):
                not_reproduced[row.index] = True

        self._each(visit)
        return not_reproduced

    def _publish(self, row: Slot, environment: SubEnvironment) -> None:
        self._buffers.observations[row.index] = environment.observation
        self._buffers.goals[row.index] = environment.goal

    def _adopt(self, states: dict[Slot, dict[str, Any]]) -> dict[int, bool]:
        """Build sub-environments and restore their states, which the buffers hold already."""
        for row in states:
            self._build(row)
        return self._restore({row.index: state for row, state in states.items()})

    def _drop(self, rows: set[int]) -> None:
        for row in [row for row in self._environments if row.index in rows]:
            del self._environments[row]

    def _each(self, visit: Callable[[Slot, SubEnvironment], None], half: int | None = None) -> None:
        """Visit all sub-environments, or those of one half."""
        for row, environment in self._environments.items():
            if half is not None and row.half != half:
                continue
            try:
                visit(row, environment)
            except Exception as error:
                raise SubEnvironmentError(str(row)) from error
