"""The cost of an update at the paper's size, in several implementations, and the arithmetic floor.

Every implementation samples 10×128 transitions and computes targets, critic and actor gradients,
weights, Adam, temperatures and Polyak averaging:

* `plain_ls`: plain modules over the flat batch of 1,280, one `autograd.grad` of the mean loss. The
  reference.
* `ls`, `fairgrad_newton`, …: this project's agent with that method.
* `autograd_loop`, `task_loop`: plain modules with FairGrad, by one `autograd.grad` a task through
  one graph, or by separate forward and backward passes over the 128 samples of each task.
* `torchjd_fairgrad`: TorchJD's Jacobian engine and its FairGrad on the same plain modules.
* `floor`: only the matrix products of `plain_ls`, with the weights' gradients by task;
  `floor_flat`: over the flat batch.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

from mtrl_fairgrad.agents import SAC
from mtrl_fairgrad.config.schema import AgentConfig, Config
from mtrl_fairgrad.gradients.cuda_graph import WARM_UP
from mtrl_fairgrad.training.factory import make_learner
from mtrl_fairgrad.training.learner import Learner
from mtrl_fairgrad.utils.text_tables import counted
from mtrl_fairgrad.weighting import method_options, solvers

from . import floor, profiling
from .plain import REPLAY, PlainSAC, Source, autograd_loop, mean_of_losses, torchjd_fairgrad
from .settings import TINY, Row, Settings, Size
from .timing import Clock, Times, interleaved, milliseconds, ratio, thread_counts

SECTION = "update"

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ls": ("ls", {"reduction": "mean"}),
    "fairgrad_newton": ("fairgrad", {"solver": "newton"}),
    "fairgrad_sgd": ("fairgrad", {"solver": "sgd"}),
    "pcgrad": ("pcgrad", {}),
    "cagrad": ("cagrad", {}),
    "nash_mtl": ("nash_mtl", {}),
}
LOOPS = ("autograd_loop", "task_loop", "torchjd_fairgrad")


def configuration(
    size: Size, device: torch.device, way: tuple[str, dict[str, Any]], **options: Any
) -> Config:
    """Return the configuration of our agent without warm-up.

    Args:
        size: sizes of networks and batches.
        device: where to compute.
        way: the method and its options.
        options: of the training, such as `cuda_graph`.
    """
    name, chosen = way
    agent = AgentConfig(
        width=size.width,
        depth=size.depth,
        batch_size=size.batch,
        buffer_size=REPLAY,
        warmup_steps=0,
    )
    return Config(
        agent=agent,
        method={"name": name, **method_options(name), **chosen},
        seeds=list(range(size.seeds)),
        device=str(device),
        **options,
    )


def learner(
    size: Size,
    device: torch.device,
    way: tuple[str, dict[str, Any]] = METHODS["fairgrad_newton"],
    **options: Any,
) -> Learner:
    """Return our learner with a filled replay buffer, so that `learn(0)` makes one update.

    The arguments are those of `configuration`.
    """
    return filled(configuration(size, device, way, **options), size, device)


def filled(config: Config, size: Size, device: torch.device) -> Learner:
    """Return the learner of a configuration with a filled replay buffer."""
    made = make_learner(config, size.tasks, size.observation, size.action, device)
    made.replay.rows.copy_(Source(size, device).replay.rows)
    made.replay.added = REPLAY
    return made


def updates(made: Learner) -> Callable[[], None]:
    """Return a function that makes one update, after all captures are done."""
    for _ in range(WARM_UP + 1):
        made.learn(0)
    return lambda: made.learn(0)


def plain(size: Size, device: torch.device) -> dict[str, Callable[[], None]]:
    """Return functions that make one update with plain modules.

    TorchJD's is missing if it is not installed.
    """
    source = Source(size, device)
    agents = {
        "plain_ls": PlainSAC(mean_of_losses, size, device),
        "autograd_loop": PlainSAC(autograd_loop, size, device),
        "task_loop": PlainSAC(mean_of_losses, size, device, per_task_forward=True),
    }
    if importlib.util.find_spec("torchjd") is not None:
        agents["torchjd_fairgrad"] = PlainSAC(torchjd_fairgrad, size, device)

    def once(agent: PlainSAC) -> Callable[[], None]:
        return lambda: agent.update(*source.draw())

    return {name: once(agent) for name, agent in agents.items()}


def measure(settings: Settings) -> Iterator[Row]:
    """Yield rows for each number of threads."""
    size, device = TINY if settings.quick else Size(), settings.device
    made = {way: learner(size, device, METHODS[way]) for way in METHODS}
    side = 64 if settings.quick else 2048
    by_task, flat = (floor.Floor(size, device, per_task) for per_task in (True, False))
    others = plain(size, device)
    work: dict[str, Callable[[], Any]] = {
        "plain_ls": others.pop("plain_ls"),
        **{way: updates(one) for way, one in made.items()},
        "floor": by_task.run,
        "floor_flat": flat.run,
        "square": floor.square(device, side),
        **others,
    }
    yield Row(SECTION, "matrix products of an update", floor.flops(size) / 1e9, "GFLOP")
    for suffix, clock in thread_counts(settings):
        times = interleaved(work, settings.rounds, device, clock=clock)
        rows = [*_rows(times), *_rates(times, size, side), *_solves(settings, times, clock)]
        rows.append(_guard(settings, times, clock))
        rows += profiling.measure(
            SECTION, "fairgrad_newton", updates(made["fairgrad_newton"]), settings
        )
        yield from (row._replace(name=row.name + suffix) for row in rows)


def _rows(times: Times) -> Iterator[Row]:
    for name, seconds in times.items():
        if name != "square":
            yield Row(SECTION, name, milliseconds(seconds), "ms")
    for name in (*METHODS, *LOOPS):
        if name in times:
            yield Row(SECTION, f"{name} / plain_ls", ratio(times[name], times["plain_ls"]), "×")
    for name in (*LOOPS, "ls"):
        if name in times:
            yield Row(
                SECTION,
                f"{name} / fairgrad_newton",
                ratio(times[name], times["fairgrad_newton"]),
                "×",
            )
    for name, under in (
        ("plain_ls", "floor_flat"),
        ("ls", "floor_flat"),
        ("fairgrad_newton", "floor_flat"),
        ("fairgrad_newton", "floor"),
    ):
        yield Row(SECTION, f"{name} / {under}", ratio(times[name], times[under]), "×")


def _rates(times: Times, size: Size, side: int) -> Iterator[Row]:
    """Yield the speed of matrix products."""
    for name, flops in (
        ("floor", floor.flops(size)),
        ("floor_flat", floor.flops(size)),
        ("square", 2 * side**3),
    ):
        words = (
            f"matrix products of {name}" if name != "square" else f"matrix product, {side} × {side}"
        )
        yield Row(SECTION, words, flops / statistics.median(times[name]) / 1e9, "GFLOP/s")


def _solves(settings: Settings, times: Times, clock: Clock) -> Iterator[Row]:
    """Yield the time of the weights alone (α = 2) with each solver, for one seed and for ten.

    The Gramians are those of a small agent.
    """
    size = Size(tasks=TINY.tasks if settings.quick else 10, width=8, batch=8, seeds=10)
    agent = learner(size, settings.device)
    for _ in range(3):
        agent.learn(0)
    gramians = agent.report()["critic/gramian"]
    forms: dict[str, Callable[[torch.Tensor], Any]] = {
        "newton": lambda gramian: solvers.newton(gramian, 2.0),
        "sgd": lambda gramian: solvers.sgd(gramian, 2.0),
    }
    work = {
        f"solve {form}, {counted(seeds, 'seed')}": (
            lambda solve=solve, given=gramians[:seeds]: solve(given)
        )
        for form, solve in forms.items()
        for seeds in (1, 10)
    }
    solve_times = interleaved(work, settings.rounds, settings.device, clock=clock)
    for name, seconds in solve_times.items():
        yield Row(SECTION, name, milliseconds(seconds), "ms")
    for way, form in (("fairgrad_newton", "newton"), ("fairgrad_sgd", "sgd")):
        share = (
            2
            * statistics.median(solve_times[f"solve {form}, 1 seed"])
            / statistics.median(times[way])
        )
        yield Row(SECTION, f"solves' share of {way}", 100 * share, "%")


def _guard(settings: Settings, times: Times, clock: Clock) -> Row:
    """Return the guard's share of an update.

    Its cost does not depend on the sizes of networks and batches: it is measured with tiny ones.
    """
    size = Size(tasks=TINY.tasks if settings.quick else 10, width=8, batch=8)
    guarded, unguarded = learner(size, settings.device), learner(size, settings.device)
    assert isinstance(unguarded.agent, SAC)
    no_seed = torch.zeros_like(unguarded.agent.guard.stopped)

    def check(*_: object) -> torch.Tensor:
        return no_seed

    guard: Any = unguarded.agent.guard
    guard.check_critic = guard.check_actor = check
    work = {"guarded": updates(guarded), "unguarded": updates(unguarded)}
    guard_times = interleaved(work, 20 * settings.rounds, settings.device, clock=clock)
    cost = statistics.median(
        a - b for a, b in zip(guard_times["guarded"], guard_times["unguarded"], strict=True)
    )
    return Row(
        SECTION,
        "guard's share of fairgrad_newton",
        100 * cost / statistics.median(times["fairgrad_newton"]),
        "%",
    )
