"""Estimate the memory of a run, and compare it with what is free before anything starts.

The estimate counts what grows with the options: replay buffer, simulators, and networks with all
their copies. It leaves out what is small or already there, such as PyTorch itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mtrl_fairgrad.agents import networks
from mtrl_fairgrad.agents.critics import make_critic
from mtrl_fairgrad.agents.networks import Parameters
from mtrl_fairgrad.agents.replay_buffer import row_parts
from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.workers.load_balancing import worker_count
from mtrl_fairgrad.training import factory
from mtrl_fairgrad.utils.free_memory import free_memory
from mtrl_fairgrad.utils.text_tables import counted
from mtrl_fairgrad.weighting import JacobianAggregation, Method

FLOAT = 4
"""Bytes of a number of the agent and of the replay buffer."""
SIMULATOR = {"metaworld": 24 * 2**20, "gymnasium": 3 * 2**20}
"""Bytes of a simulator with its cached resets, by suite: the mean of MT10, and of Ant."""
WORKER = {"metaworld": 75 * 2**20, "gymnasium": 20 * 2**20}
"""Bytes of a worker process without simulators that it shares with no other process, measured."""
ACTIVATIONS = 4
"""Copies of a batch's hidden activations that exist at once in an update, measured."""
REPLAY, SIMULATORS, NETWORKS = "the replay buffer", "simulators", "networks and their gradients"


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes by part."""

    host: dict[str, int]
    device: dict[str, int]
    """On the learner's device, if that is not the host."""


def check_memory(config: Config, device: torch.device) -> None:
    """Check that a run fits into the memory that is free now.

    Args:
        config: validated, with its tasks.
        device: the learner's.

    Raises:
        ConfigError: it does not; names the largest part, what is free, and what would fit.
    """
    free = {"this machine": free_memory()}
    if device.type == "cuda":
        free[str(device)] = torch.cuda.mem_get_info(device)[0]
    _check_size(config, min(size for size in (math.inf, *free.values()) if size is not None))
    suite = factory.make_suite(config, tuple(config.env.tasks or ()))
    needs = estimate(config, suite, device)
    for (place, available), parts in zip(free.items(), (needs.host, needs.device), strict=False):
        if available is not None and sum(parts.values()) > available:
            raise _too_large(config, suite, parts, place, available)


def estimate(config: Config, suite: Suite, device: torch.device) -> MemoryNeeds:
    """Estimate the memory of a run at its peak."""
    simulators = {SIMULATORS: _simulators(config, suite)}
    training, saving = _networks(config, suite)
    replay = config.agent.buffer_size * _row(config, suite)
    if device.type == "cpu":
        # A checkpoint is encoded in memory between updates, when no Jacobian exists.
        return MemoryNeeds({REPLAY: replay, NETWORKS: max(training, saving), **simulators}, {})
    training += _projection(config, suite)
    return MemoryNeeds({NETWORKS: saving, **simulators}, {REPLAY: replay, NETWORKS: training})


def _row(config: Config, suite: Suite) -> int:
    """Bytes of one step of all seeds and tasks in the replay buffer."""
    width = sum(row_parts(suite.observation_size, suite.action_size, config.agent.n_step))
    return len(config.seeds) * len(suite.tasks) * width * FLOAT


def _simulators(config: Config, suite: Suite) -> int:
    """Bytes of the simulators of training and evaluation, and of their processes."""
    evaluating = len(config.seeds) * len(suite.tasks)
    training = evaluating * config.env.copies
    processes = min(worker_count(config.env.workers, "train"), training)
    processes += min(worker_count(config.eval.workers, "eval"), evaluating)
    kind = "gymnasium" if config.env.suite == "gymnasium" else "metaworld"
    return (training + evaluating) * SIMULATOR[kind] + processes * WORKER[kind]


def _networks(config: Config, suite: Suite) -> tuple[int, int]:
    """Bytes of the agent at the peak of an update, and while a checkpoint is encoded."""
    seeds, tasks, agent = len(config.seeds), len(suite.tasks), config.agent
    if agent.name == "stl":
        seeds, tasks = seeds * tasks, 1
    sizes = suite.observation_size, suite.action_size, tasks
    rows = 1 + (agent.batch_size % 2 == 0)  # of each task, when the log compares half-batches
    with torch.device("meta"):  # shapes alone
        nowhere = cast(torch.Generator, None)
        actor, critics = (
            init(agent, *sizes, nowhere) for init in (networks.init_actor, networks.init_critics)
        )
        states, jacobians = zip(
            *(
                _method_bytes(method, network, seeds, tasks, rows)
                for method, network in zip(
                    factory.make_methods(config), (critics.shared, actor.shared), strict=True
                )
            ),
            strict=True,
        )
    # Parameters, two moments, gradient and clipped gradient; for actors also the copies that an
    # evaluation keeps and acts with, for critics their targets.
    copies = {"actor": (7, _count(actor)), "critics": (6, _count(critics))}
    static = sum(states) + FLOAT * seeds * sum(times * size for times, size in copies.values())
    width = agent.width + 2 * (agent.critic_width or agent.width)
    layers = 1 + 2 * agent.depth if agent.network == "bronet" else agent.depth
    outputs = 2 * make_critic(agent).outputs
    batch = seeds * tasks * agent.batch_size * (layers * width + outputs) * FLOAT
    stored = sum(states) + FLOAT * seeds * (3 * _count(actor) + 4 * _count(critics))
    return static + max(jacobians) + ACTIVATIONS * batch, 2 * stored


def _projection(config: Config, suite: Suite) -> int:
    """Bytes of the pairs of atoms by which a GPU projects distributions of returns."""
    if config.agent.critic != "categorical":
        return 0
    samples = len(config.seeds) * len(suite.tasks) * config.agent.batch_size
    return 2 * samples * config.agent.atoms**2 * FLOAT  # an operation's operand and result


def _count(parameters: Parameters) -> int:
    """Number of one seed's parameters."""
    groups = (parameters.shared, parameters.own)
    return sum(value.numel() for group in groups for value in group.values())


def _method_bytes(
    method: Method, shared: Mapping[str, Tensor], seeds: int, tasks: int, rows: int
) -> tuple[int, int]:
    """Bytes of a method's state, and of the Jacobians in its updates or the log of one.

    Args:
        method: of one network.
        shared: that network's parameters, without values.
        seeds: S.
        tasks: K.
        rows: gradients of each task that exist while an update is logged.
    """
    jacobian = {name: value.expand(seeds, tasks, *value.shape) for name, value in shared.items()}
    state = method.init(tasks, (seeds,), jacobian).buffers()
    if isinstance(method, JacobianAggregation):
        rows = 2  # the direction's terms have the Jacobian's size
    of_jacobians = rows * sum(value.numel() for value in jacobian.values()) * FLOAT
    return sum(value.numel() * value.element_size() for value in state), of_jacobians


def _check_size(config: Config, free: float) -> None:
    """Refuse typing errors in the networks' size at once: not even their shapes could be listed."""
    agent, tasks = config.agent, len(config.env.tasks or ())
    actor, critics = (
        (agent.depth - 1) * width**2 for width in (agent.width, agent.critic_width or agent.width)
    )
    needed = FLOAT * len(config.seeds) * (5 * actor + 12 * critics)
    if needed > free:
        raise ConfigError(
            f"agent.width={agent.width} and agent.depth={agent.depth} need more than "
            f"{_gib(needed)} for {len(config.seeds)} seeds × {tasks} tasks, but {_gib(free)} are "
            "free: use smaller networks or fewer seeds.",
            "agent.width",
            agent.width,
        )


def _too_large(
    config: Config, suite: Suite, parts: Mapping[str, int], place: str, free: int
) -> ConfigError:
    largest = max(parts, key=lambda part: parts[part])
    # The option that changes each part most.
    options: dict[str, tuple[str, Any]] = {
        REPLAY: ("agent.buffer_size", config.agent.buffer_size),
        SIMULATORS: ("env.copies", config.env.copies)
        if config.env.copies > 1
        else ("seeds", config.seeds),
        NETWORKS: ("agent.width", config.agent.width),
    }
    key, value = options[largest]
    listed = ", ".join(f"{_gib(size)} for {part}" for part, size in parts.items())
    needed = f"{_gib(sum(parts.values()))} ({listed})"
    seeds = counted(len(config.seeds), "seed")
    tasks = counted(len(suite.tasks), "task")
    fixes = ", or ".join(_fixes(config, suite, parts, largest, free))
    return ConfigError(
        f"{key}={value} needs too much memory: {seeds} × {tasks} need {needed}, "
        f"but {_gib(free)} of {place} are free: use {fixes}.",
        key,
        value,
    )


def _fixes(
    config: Config, suite: Suite, parts: Mapping[str, int], largest: str, free: int
) -> list[str]:
    """List what makes the largest part of the memory smaller, in words."""
    agent, fixes = config.agent, list[str]()
    if largest == REPLAY:
        others = sum(parts.values()) - parts[REPLAY]
        fits = _rounded_down((free - others) // _row(config, suite))
        # A buffer longer than the run is never filled; one shorter than a batch is not allowed.
        enough = min(fits, max(config.steps, agent.batch_size))
        if enough >= agent.batch_size:
            fixes.append(f"agent.buffer_size={enough} or less")
    if largest == NETWORKS:
        fixes.append("smaller networks")
    if largest == SIMULATORS and config.env.copies > 1:
        fixes.append("fewer env.copies")
    if largest == SIMULATORS and (config.eval.workers or 2) > 1:
        fixes.append("eval.workers=1")
    fixes += ["fewer seeds"] * (len(config.seeds) > 1) + ["fewer tasks"] * (len(suite.tasks) > 1)
    return fixes or ["a machine with more memory"]


def _rounded_down(count: int) -> int:
    """Round down to two digits."""
    if count < 100:
        return count
    unit = 10 ** (math.floor(math.log10(count)) - 1)
    return count // unit * unit


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
