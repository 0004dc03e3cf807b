"""Transitions per second by copies and workers, and the share of time that workers wait.

The learner sleeps for half of the time that a vector step takes, where an update would be, and acts
at random; it steps the two halves of the copies as training does. Every round has one reset of
every simulator. `own rate` is what a single worker does in a second of its processor time.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mtrl_fairgrad.envs.metaworld import MetaworldSuite
from mtrl_fairgrad.envs.task_names import MT10
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.utils.text_tables import counted

from . import machine
from .settings import Row, Settings, cores
from .timing import interleaved

SECTION = "copies"
COPIES = (1, 8, 32)
HORIZON = 200


class SleepingLearner:
    """Steps simulators in the order of a training step, and sleeps in place of an update."""

    def __init__(self, envs: TaskVectorEnv, pids: Sequence[int], steps: int) -> None:
        self.envs, self.steps, self._pids = envs, steps, pids
        self.pause = 0.0
        """Seconds of an update."""
        self.wall = self.busy = 0.0
        """Seconds since `begin`: of this process, and of the workers' processors together."""
        shape = (steps, envs.num_envs, 4)
        self._actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        envs.reset()

    @property
    def transitions(self) -> int:
        """Transitions of a round."""
        return self.steps * self.envs.num_envs

    def run(self) -> None:
        """Take one round of vector steps."""
        started, busy = time.perf_counter(), self._busy()
        envs, (first, *second) = self.envs, self.envs.half_rows
        for number, actions in enumerate(self._actions):
            envs.step_async(actions[first], 0)
            for rows in second:
                if number:
                    envs.step_wait(1)
                envs.step_async(actions[rows], 1)
            time.sleep(self.pause)
            envs.step_wait(0)
        for _ in second:
            envs.step_wait(1)
        self.wall += time.perf_counter() - started
        self.busy += self._busy() - busy

    def _busy(self) -> float:
        return sum(map(machine.cpu_seconds, self._pids)) if machine.KNOWN else 0.0

    def prepare(self) -> None:
        """Let the workers measure, share the work by that, and choose the time to sleep."""
        self.run()
        self.envs.rebalance()
        self.wall = 0.0
        self.run()
        self.pause = self.wall / self.steps / 2
        self.wall = self.busy = 0.0


def measure(settings: Settings) -> Iterator[Row]:
    """Yield rows for each of `COPIES`."""
    tasks, numbers, steps = (MT10[:1], (1, 2), 8) if settings.quick else (MT10, COPIES, HORIZON)
    for copies in numbers:
        yield from _rows(tasks, copies, steps, settings.few)


def _rows(tasks: Sequence[str], copies: int, steps: int, rounds: int) -> Iterator[Row]:
    suite = MetaworldSuite(tasks=tuple(tasks), horizon=steps)
    learners: dict[int, SleepingLearner] = {}
    try:
        for workers in sorted({min(count, copies * len(tasks)) for count in (1, 2, cores())}):
            before = set(multiprocessing.active_children())
            envs = TaskVectorEnv(suite, [0], workers, copies=copies)
            started: Any = set(multiprocessing.active_children()) - before
            learners[workers] = SleepingLearner(envs, [each.pid for each in started], steps)
            learners[workers].prepare()
        work = {str(workers): learner.run for workers, learner in learners.items()}
        times = interleaved(work, rounds, torch.device("cpu"), warm_up=0)
    finally:
        for learner in learners.values():
            learner.envs.close()
    for workers, learner in learners.items():
        name = f"E={copies}, {counted(workers, 'worker')}"
        rates = [learner.transitions / seconds for seconds in times[str(workers)]]
        rate = float(np.median(rates))
        yield Row(SECTION, name, rate, "transitions/s")
        if machine.KNOWN:
            waiting = max(0.0, 1 - learner.busy / (learner.envs.workers * learner.wall))
            yield Row(SECTION, f"{name}: workers wait", 100 * waiting, "%")
            own = rounds * learners[1].transitions / learners[1].busy
            yield Row(SECTION, f"{name} / ({workers} × own rate)", rate / (workers * own), "×")
