"""Whole training steps against their parts.

Updates take half, once and twice the time of the simulation. Ten seeds of MT10 in one worker, the
learner on one thread; the width of the networks is chosen by timing. Then one seed with 1, 8 and 32
copies of each task. Rounds interleave complete steps of the trainer, the update alone and the
simulation alone.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.config.schema import AgentConfig, EnvConfig
from mtrl_fairgrad.envs.task_names import MT10
from mtrl_fairgrad.envs.vector_env import Step
from mtrl_fairgrad.training import loop
from mtrl_fairgrad.training.trainer import Trainer

from . import machine
from .runs import begin, configuration, training
from .settings import Row, Settings, Size
from .timing import interleaved, milliseconds, ratio
from .update import learner, updates

SECTION = "end_to_end"
TARGETS = (0.5, 1.0, 2.0)
"""Ratios of the update's time to the simulation's."""
WIDTHS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 400)
COPIES = (1, 8, 32)
BATCH, SEEDS, WARM_UP = 8, 10, 10


class TimedTrainer:
    """Runs complete steps of a trainer, or their parts alone, and measures waiting times."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.stepping = self.waited = self.simulated = 0.0
        """Seconds in complete steps: wall-clock, the learner's waits, the simulators' CPU time."""
        self._waiting = 0.0
        self._wait = trainer.envs.step_wait
        trainer.envs.step_wait = self._timed_wait
        self._workers = [child.pid for child in multiprocessing.active_children() if child.pid]
        shape = trainer.envs.action_space.shape or ()
        self._actions = cycle(np.random.default_rng(0).uniform(-1, 1, (100, *shape)).astype("f4"))

    def _timed_wait(self, half: int = 0) -> Step:
        started = time.perf_counter()
        result = self._wait(half)
        self._waiting += time.perf_counter() - started
        return result

    def _busy(self) -> float:
        return sum(map(machine.cpu_seconds, self._workers)) if machine.KNOWN else math.nan

    def begin(self, width: int) -> None:
        """Train new networks of this width past the warm-up."""
        agent = replace(self.trainer.config.agent, width=width)
        begin(self.trainer, replace(self.trainer.config, agent=agent))
        self.stepping = self.waited = self.simulated = 0.0

    def step(self, number: int) -> None:
        """Run complete training steps."""
        waiting, busy, started = self._waiting, self._busy(), time.perf_counter()
        for _ in range(number):
            loop.step(self.trainer)
        self.stepping += time.perf_counter() - started
        self.waited += self._waiting - waiting
        self.simulated += self._busy() - busy

    def update(self, number: int) -> None:
        """Run updates alone, with their random numbers."""
        for _ in range(number):
            self.trainer.learner.learn(self.trainer.env_steps)

    def simulate(self, number: int) -> None:
        """Run the simulators alone, with random actions; training continues from where they end."""
        for _ in range(number):
            actions = next(self._actions)
            self._send(0, actions)
            for half in self.trainer.later_halves:
                self._receive(half)
                self._send(half, actions)
            self._receive(0)

    def _send(self, half: int, actions: NDArray[np.float32]) -> None:
        mine = self.trainer.actions[half] = actions[self.trainer.envs.half_rows[half]]
        self.trainer.envs.step_async(mine, half)

    def _receive(self, half: int) -> None:
        if half in self.trainer.actions:
            del self.trainer.actions[half]
            self.trainer.observations[half] = self._wait(half)[0]


def measure(settings: Settings) -> Iterator[Row]:
    """Yield rows for each of `TARGETS`, of many seeds and of each of `COPIES`."""
    if settings.quick:
        yield from _case(settings, MT10[:1], 1, 1, TARGETS[:1])
        yield from _case(settings, MT10[:1], 1, 2, TARGETS[:1], "E=2, ")
        return
    yield from _case(settings, MT10, SEEDS, 1, TARGETS)
    for copies in COPIES:
        yield from _case(settings, MT10, 1, copies, TARGETS, f"E={copies}, ")


def _case(
    settings: Settings,
    tasks: Sequence[str],
    seeds: int,
    copies: int,
    targets: Sequence[float],
    prefix: str = "",
) -> Iterator[Row]:
    agent = AgentConfig(width=WIDTHS[0], batch_size=BATCH, buffer_size=1000, warmup_steps=WARM_UP)
    env = EnvConfig(tasks=list(tasks), workers=1, copies=copies)
    with training(configuration(settings, agent, env, seeds)) as trainer:
        timed = TimedTrainer(trainer)
        times = interleaved({"simulation": lambda: timed.simulate(1)}, 20, settings.device)
        taken = _update_seconds(
            settings, Size(len(tasks), BATCH, seeds=seeds, observation=39 + len(tasks))
        )
        for target in targets:
            goal = target * statistics.median(times["simulation"])
            width = min(taken, key=lambda each: abs(math.log(taken[each] / goal)))
            timed.begin(width)
            label = f"{prefix}update ≈ {target:g} × simulation"
            yield Row(SECTION, f"{label}: width", width, "units")
            yield from _rows(settings, timed, label)


def _update_seconds(settings: Settings, size: Size) -> dict[int, float]:
    """Return the median seconds of an update by width."""
    widths = WIDTHS[:2] if settings.quick else WIDTHS
    work = {
        str(width): updates(learner(replace(size, width=width), settings.device))
        for width in widths
    }
    times = interleaved(work, settings.few, settings.device)
    return {width: statistics.median(times[str(width)]) for width in widths}


def _rows(settings: Settings, timed: TimedTrainer, label: str) -> Iterator[Row]:
    number = 3 if settings.quick else 20
    work = {
        "step": lambda: timed.step(number),
        "update alone": lambda: timed.update(number),
        "simulation alone": lambda: timed.simulate(number),
    }
    times = interleaved(work, settings.rounds, settings.device)
    for name, seconds in times.items():
        yield Row(SECTION, f"{label}: {name}", milliseconds(seconds) / number, "ms")
    env_steps = timed.trainer.envs.copies * number / statistics.median(times["step"])
    yield Row(SECTION, f"{label}: env_steps", env_steps, "env_steps/s")
    update, simulation = times["update alone"], times["simulation alone"]
    longer = [max(pair) for pair in zip(update, simulation, strict=True)]
    yield Row(SECTION, f"{label}: update / simulation", ratio(update, simulation), "×")
    yield Row(
        SECTION, f"{label}: step / max(update, simulation)", ratio(times["step"], longer), "×"
    )
    yield Row(SECTION, f"{label}: learner waits", 100 * timed.waited / timed.stepping, "%")
    if machine.KNOWN:
        idle = max(0.0, 1 - timed.simulated / timed.stepping)
        yield Row(SECTION, f"{label}: simulators wait", 100 * idle, "%")
