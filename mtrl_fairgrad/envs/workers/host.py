"""Runs several sub-environments one after the other, in a worker process or in the learner's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mtrl_fairgrad.envs.suite import SubEnvironment, Suite
from mtrl_fairgrad.envs.workers.shared_memory import Buffers


@dataclass(frozen=True)
class Slot:
    """A sub-environment's place: its row in the buffers, its task, that task's place among all, its
    seed.
    """

    index: int
    task: str
    identity: int
    seed: int

    def __str__(self) -> str:
        return f"task {self.task}, seed {self.seed}"


class SubEnvironmentError(RuntimeError):
    """A sub-environment raised: the original exception is the cause, the message names task and
    seed.
    """


class Host:
    """The sub-environments of some rows; a command goes through all and leaves its results in the
    buffers.
    """

    def __init__(self, rows: list[Slot], suite: Suite, role: str, buffers: Buffers) -> None:
        self._buffers = buffers
        self._commands: dict[str, Callable[[Any], Any]] = {
            "step": self._step,
            "reset": self._reset,
            "get_state": self._get_state,
            "set_state": self._set_state,
            "place": self._place,
        }
        self._environments: dict[Slot, SubEnvironment] = {}
        for row in rows:
            try:
                self._environments[row] = suite.make(row.task, row.seed, row.identity, role)
            except Exception as error:
                raise SubEnvironmentError(str(row)) from error

    def run(self, command: str, payload: Any = None) -> Any:
        """Carry out `step`, `reset` (row → goals, or None), `get_state`, `set_state` (row → state)
        or `place`.

        `get_state` answers row → state, `set_state` row → True for those that did not get there;
        `place` takes row → arguments of `SubEnvironment.place`. SubEnvironmentError, from the
        original exception, when a sub-environment raises.
        """
        return self._commands[command](payload)

    def _step(self, _: None) -> None:
        self._each(self._step_one)

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
            environment.begin()
            buffers.goals[i] = environment.goal
        buffers.observations[i] = environment.observation
        buffers.elapsed[i] = environment.elapsed

    def _reset(self, goals: dict[int, list[int]] | None) -> None:
        self._each(
            lambda row, environment: environment.play(None if goals is None else goals[row.index])
        )
        self._each(self._publish)

    def _place(self, positions: dict[int, tuple[dict[str, Any] | None, int]]) -> None:
        self._each(lambda row, environment: environment.place(*positions[row.index]))

    def _get_state(self, _: None) -> dict[int, dict[str, Any]]:
        return {
            row.index: environment.get_state() for row, environment in self._environments.items()
        }

    def _set_state(self, states: dict[int, dict[str, Any]]) -> dict[int, bool]:
        astray: dict[int, bool] = {}

        def visit(row: Slot, environment: SubEnvironment) -> None:
            if not environment.set_state(states[row.index]):
                astray[row.index] = True

        self._each(visit)
        self._each(self._publish)
        return astray

    def _publish(self, row: Slot, environment: SubEnvironment) -> None:
        self._buffers.observations[row.index] = environment.observation
        self._buffers.goals[row.index] = environment.goal
        self._buffers.elapsed[row.index] = environment.elapsed

    def _each(self, visit: Callable[[Slot, SubEnvironment], None]) -> None:
        for row, environment in self._environments.items():
            try:
                visit(row, environment)
            except Exception as error:
                raise SubEnvironmentError(str(row)) from error
