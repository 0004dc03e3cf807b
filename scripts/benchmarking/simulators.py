"""Transitions per second of Meta-World's vector environment, of ours and of MuJoCo alone.

Also of one and of several workers. Work in one process is measured by processor time, which depends
little on other processes; workers are measured by wall-clock time. Every round runs whole episodes,
resets included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
import torch

from mtrl_fairgrad.envs.metaworld import MetaworldSuite
from mtrl_fairgrad.envs.task_names import MT10, MT50
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.utils.text_tables import counted

from .settings import Row, Settings, cores
from .timing import Times, interleaved, ratio

SECTION = "simulators"
ENVIRONMENTS = 20
"""Number of environments for one worker and for several."""

Steps = Callable[[], Any]
CPU = torch.device("cpu")


class Episode:
    """MuJoCo alone: the substeps of one episode of a task, with recorded controls."""

    def __init__(
        self, suite: MetaworldSuite, task: str, steps: int, generator: np.random.Generator
    ) -> None:
        made = suite.make(task, 0, suite.tasks.index(task), "train")
        made.begin()
        environment: Any = made.environment
        self.model, self.data, self.substeps = (
            environment.model,
            environment.data,
            environment.frame_skip,
        )
        self._start = copy(self.data)
        self._controls = []
        for _ in range(steps):
            made.step(generator.uniform(-1, 1, 4).astype(np.float32))
            self._controls.append((self.data.ctrl.copy(), self.data.mocap_pos.copy()))
        self.recorded = self.data.qpos.copy()

    def run(self) -> None:
        """Repeat the whole episode."""
        mujoco: Any = import_module("mujoco")  # other sections run without it
        self.data = data = copy(self._start)
        model, substeps = self.model, self.substeps
        for control, hand in self._controls:
            data.ctrl[:], data.mocap_pos[:] = control, hand
            mujoco.mj_step(model, data, substeps)

    @property
    def substeps_done(self) -> float:
        """Substeps a transition in the last run."""
        return (self.data.time - self._start.time) / self.model.opt.timestep / len(self._controls)


def measure(settings: Settings) -> Iterator[Row]:
    """Yield rows of MT10, of MT50 and of workers."""
    if settings.quick:
        yield from _suite("MT10", MT10[:1], 8, 1, whole=False)
        yield from _workers(MT10[:1], 2, 8, 1)
        return
    yield from _suite("MT10", MT10, 500, settings.few, whole=True)
    yield from _suite("MT50", MT50, 500, max(1, settings.few // 2), whole=True)
    yield from _workers(MT10, ENVIRONMENTS, 100, settings.rounds)


def _suite(
    name: str, tasks: Sequence[str], horizon: int, rounds: int, whole: bool
) -> Iterator[Row]:
    """Yield rows of all implementations for some tasks.

    `whole` means that these are all the tasks of Meta-World's suite `name`.
    """
    import metaworld  # noqa: F401, registers its environments

    custom: dict[str, Any] = {"envs_list": [*tasks]}
    kind, chosen = (f"Meta-World/{name}", {}) if whole else ("Meta-World/custom-mt-envs", custom)
    own = gymnasium.make_vec(
        kind, vector_strategy="sync", seed=1, use_one_hot=True, max_episode_steps=horizon, **chosen
    )
    vectors: dict[str, Any] = {"metaworld": own, **ours(tasks, horizon)}
    generator = np.random.default_rng(0)
    episodes = [
        Episode(_suite_of(tasks, horizon, False), task, horizon, generator) for task in tasks
    ]
    work = {way: _stepping(envs, horizon, generator) for way, envs in vectors.items()}
    work["physics only"] = lambda: [episode.run() for episode in episodes]
    times = interleaved(work, rounds, CPU, warm_up=1, clock=time.process_time)
    for envs in vectors.values():
        envs.close()
    yield from _rates(name, times, horizon * len(tasks))
    substeps = float(np.mean([episode.substeps_done for episode in episodes]))
    yield Row(SECTION, f"{name}, substeps of a transition", substeps, "substeps")


def _suite_of(tasks: Sequence[str], horizon: int, fast: bool) -> MetaworldSuite:
    """Return our suite, with Meta-World's code or with the fast path."""
    return MetaworldSuite(tasks=tuple(tasks), horizon=horizon, fast=fast)


def ours(tasks: Sequence[str], horizon: int) -> dict[str, TaskVectorEnv]:
    """Return our vector environments in this process, with the official code and the fast path."""
    ways = {"ours, official code": False, "ours, fast path": True}
    return {
        way: TaskVectorEnv(_suite_of(tasks, horizon, fast), [0], workers=0)
        for way, fast in ways.items()
    }


def _stepping(envs: Any, steps: int, generator: np.random.Generator) -> Steps:
    """Return a function that takes `steps` steps of random actions."""
    envs.reset()
    shape = (steps, envs.num_envs, 4)
    actions = generator.uniform(-1, 1, shape).astype(np.float32)

    def go() -> None:
        for action in actions:
            envs.step(action)

    return go


def _rates(name: str, times: Times, transitions: int) -> Iterator[Row]:
    """Yield rates and their ratios."""
    for way, seconds in times.items():
        rate = transitions / float(np.median(seconds))
        yield Row(SECTION, f"{name}, {way}", rate, "transitions/s of a core")
    for way in times:
        if way.startswith("ours"):
            gain = ratio(times["metaworld"], times[way])
            yield Row(SECTION, f"{name}, {way} / metaworld", gain, "×")
            yield Row(
                SECTION,
                f"{name}, {way} / physics only",
                ratio(times["physics only"], times[way]),
                "×",
            )


def _workers(tasks: Sequence[str], environments: int, steps: int, rounds: int) -> Iterator[Row]:
    """Yield rows of the same environments in one worker and in several."""
    generator = np.random.default_rng(0)
    suite, seeds = MetaworldSuite(tasks=tuple(tasks)), range(environments // len(tasks))
    counts = sorted({1, 2, min(cores(), environments)})
    vectors = {count: TaskVectorEnv(suite, list(seeds), workers=count) for count in counts}
    try:
        work = {str(count): _stepping(envs, steps, generator) for count, envs in vectors.items()}
        times = interleaved(work, rounds, CPU, warm_up=1)
    finally:
        for envs in vectors.values():
            envs.close()
    label = partial("{} environments, {}".format, environments)
    for count in counts:
        rate = steps * environments / float(np.median(times[str(count)]))
        yield Row(SECTION, label(counted(count, "worker")), rate, "transitions/s")
    for count in counts[1:]:
        gain = ratio(times["1"], times[str(count)])
        yield Row(SECTION, f"{label(counted(count, 'worker'))} / 1 worker", gain, "×")
