"""Memory during a long training of MT10 with tiny networks and a replay buffer that wraps often.

The run has evaluations and checkpoints. Resident memory of the learner and of all simulators is
read at regular intervals after the first tenth of the run.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from unittest import mock

from mtrl_fairgrad.config.schema import AgentConfig, EnvConfig, EvalConfig
from mtrl_fairgrad.envs.task_names import MT10
from mtrl_fairgrad.training import loop
from mtrl_fairgrad.training.trainer import Trainer

from . import machine
from .runs import configuration, training
from .settings import Row, Settings

SECTION = "long"
CAPACITY, HORIZON = 1000, 100
"""Capacity of the replay buffer, and length of an episode, in steps."""
EVERY = 1000
"""Steps between readings, fewer in a short run."""


class MemoryReadings:
    """Reads memory during training, and requests a stop one episode before the last step.

    The evaluation of all goals at the end of a run would only take time.
    """

    def __init__(self) -> None:
        self.readings: list[tuple[int, int]] = []
        """Bytes of the learner, and of all simulators."""
        self._step = loop.step

    def step(self, trainer: Trainer) -> None:
        """Take a training step, then read memory if it is time."""
        self._step(trainer)
        last = trainer.config.steps - (trainer.config.env.horizon or 0)
        every = min(EVERY, max(1, last // 20))
        if trainer.env_steps % every == 0 and 10 * trainer.env_steps >= last:
            workers = [child.pid for child in multiprocessing.active_children() if child.pid]
            self.readings.append(
                (machine.resident_bytes(os.getpid()), sum(map(machine.resident_bytes, workers)))
            )
        if trainer.env_steps >= last:
            trainer.stop.request(signal.SIGTERM)


def measure(settings: Settings) -> Iterator[Row]:
    """Yield first, last and largest memory, and the drift from first to last.

    Raises:
        SystemExit: memory cannot be read on this system.
    """
    if not machine.KNOWN:
        raise SystemExit(
            "--sections long reads memory from /proc, which this system does not have."
        )
    steps, capacity, horizon = (
        (60, 10, 10) if settings.quick else (settings.steps, CAPACITY, HORIZON)
    )
    config = configuration(
        settings,
        AgentConfig(
            width=8 if settings.quick else 16,
            batch_size=8,
            buffer_size=capacity,
            warmup_steps=horizon,
            updates_per_step=0.5,  # saves a third of the time
        ),
        EnvConfig(tasks=list(MT10[:1] if settings.quick else MT10), horizon=horizon, workers=1),
        seeds=1,
        steps=steps + horizon,
        eval=EvalConfig(every=max(1, steps // 5), episodes=1, workers=0 if settings.quick else 1),
    )
    started = time.perf_counter()
    memory = MemoryReadings()
    with (
        contextlib.redirect_stdout(sys.stderr),
        mock.patch.object(loop, "step", memory.step),
        training(config) as trainer,
    ):
        loop.run(trainer)
        replay = trainer.learner.replay
    yield Row(SECTION, "vector steps", trainer.env_steps, "steps")
    yield Row(SECTION, "times the replay was filled", trainer.env_steps / replay.capacity, "times")
    yield Row(
        SECTION,
        "replay, of a transition",
        replay.rows.shape[-1] * replay.rows.element_size(),
        "bytes",
    )
    yield Row(SECTION, "wall time", time.perf_counter() - started, "s")
    yield from _memory("learner", [own for own, _ in memory.readings])
    yield from _memory("simulators", [others for _, others in memory.readings])


def _memory(name: str, readings: list[int]) -> Iterator[Row]:
    for word, size in (("first", readings[0]), ("last", readings[-1]), ("largest", max(readings))):
        yield Row(SECTION, f"{name}, {word}", size / 2**20, "MiB")
    yield Row(SECTION, f"{name}, drift", 100 * (readings[-1] / readings[0] - 1), "%")
