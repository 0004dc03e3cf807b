"""Make a trainer and its parts from a configuration: tasks, simulators, methods, agent, learner."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from gymnasium.spaces import flatdim

from mtrl_fairgrad.agents import ARCHITECTURES, SAC, Agent, NetworkSpec, SACSpec, SingleTaskSAC
from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.schema import AgentConfig, Config, ConfigError
from mtrl_fairgrad.envs.gymnasium_suite import gymnasium_suite
from mtrl_fairgrad.envs.metaworld import MetaworldSuite
from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.envs.workers.pool import GRACE_SECONDS
from mtrl_fairgrad.gradients.conventions import Convention
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.training.evaluator import Evaluator
from mtrl_fairgrad.training.fault_monitor import FaultMonitor
from mtrl_fairgrad.training.learner import Learner
from mtrl_fairgrad.training.logger import Logger
from mtrl_fairgrad.training.progress import Progress
from mtrl_fairgrad.training.restore import restore_learner
from mtrl_fairgrad.training.signals import StopController
from mtrl_fairgrad.training.trainer import Trainer
from mtrl_fairgrad.training.worker_restarts import WorkerRestarts
from mtrl_fairgrad.utils.device import resolve_device
from mtrl_fairgrad.weighting import Method, make_method
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair


def configure_torch(config: Config) -> None:
    """Set the number of threads and the determinism of this process; call it before CUDA starts."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by PyTorch
    torch.use_deterministic_algorithms(config.deterministic)


def check_memory(config: Config, device: torch.device) -> None:
    """Refuse networks whose hidden layers alone exceed the device's whole memory; no word on what
    just fits.

    Raises:
        ConfigError: they do.
    """
    agent, tasks = config.agent, len(config.env.tasks or ())
    actor, critics = (
        (agent.depth - 1) * width**2 for width in (agent.width, agent.critic_width or agent.width)
    )
    # Weights, gradient and Adam's two; the two critics have targets, too; and every task has its
    # gradients.
    needed = 4 * len(config.seeds) * (actor * (4 + tasks) + 2 * critics * (5 + tasks))
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[1]
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigError(
            f"agent.width={agent.width} and agent.depth={agent.depth} need more than "
            f"{needed / 2**30:,.0f} GiB for {len(config.seeds)} seeds × {tasks} tasks, but "
            f"{device} has {there / 2**30:,.0f} GiB: make the networks "
            "smaller, or train fewer seeds."
        )


def make_suite(config: Config, tasks: tuple[str, ...], evaluation: bool = False) -> Suite:
    """The run's tasks and how they are simulated; `evaluation`: Meta-World's episodes end at the
    first success.

    Raises:
        ConfigError: tasks that cannot be made or trained on, options they do not have.
    """
    env = config.env
    try:
        if env.suite == "gymnasium":
            return gymnasium_suite(
                tasks, env.task_options, env.horizon, env.success_return, env.one_hot
            )
        return MetaworldSuite(
            tasks=tasks,
            one_hot=env.one_hot,
            horizon=env.horizon or 0,
            reward_version=str(env.reward_version),
            terminate_on_success=evaluation,
            goal_choice=str(env.goals),
            observation=str(env.observation),
            fast=bool(env.fast),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def protocol(config: Config, suite: Suite) -> dict[str, str]:
    """With `env` in the configuration, what a success rate means; rates of different protocols are
    never averaged.
    """
    episodes = len(suite.goals(config.seeds[0], suite.tasks[0]))
    found = {
        **suite.protocol(),
        "last_evaluation": f"{episodes} episode{'s' if episodes > 1 else ''}",
    }
    if config.env.name.endswith("_paper"):
        found["simulators"] += ", not the paper's of 2021"
    return found


def make_methods(config: Config) -> tuple[Method, Method]:
    """The methods of the critics and of the actor, two instances, since methods may have state.

    The configured method serves both, but an actor's losses may be negative: `loss_alpha` is for
    the critics, and for a method that needs positive losses linear scalarisation stands in.
    """
    options = {key: value for key, value in config.method.items() if key != "name"}
    critic, actor = (make_method(config.method["name"], **options) for _ in range(2))
    if config.loss_alpha is not None:
        critic = alpha_fair(critic, config.loss_alpha)
    return critic, make_method("ls", reduction="mean") if actor.needs_positive_losses else actor


def methods_by_network(config: Config) -> dict[str, str]:
    """What critics and actor are trained by, in words, for the record."""
    transformed = "" if config.loss_alpha is None else f" with loss_alpha={config.loss_alpha:g}"
    return {
        "critic": f"{config.method['name']}{transformed}",
        "actor": str(make_methods(config)[1].name),
    }


def remarks(config: Config) -> list[str]:
    """What a user should know about the methods and might not expect, a sentence each."""
    name, used, found = config.method["name"], methods_by_network(config), list[str]()
    if config.loss_alpha is not None:
        found.append(
            f"the critics are trained by {used['critic']}; the actor, whose losses may be "
            f"negative, by {used['actor']}"
        )
    elif used["actor"] != name:
        found.append(
            f"method={name} needs positive losses, so the actor, whose losses may be negative, "
            f"uses {used['actor']}"
        )
    if config.convention.own != "plain" and not any(ARCHITECTURES[config.agent.name]):
        found.append(
            f"agent={config.agent.name} has no parameters of one task alone that a method could "
            "weight, so "
            f"convention.own={config.convention.own} changes nothing"
        )
    return found


def make_agent(
    config: Config, tasks: int, observation_dim: int, action_dim: int, device: torch.device
) -> Agent:
    """The agent of a configuration, untrained."""
    agent: AgentConfig = config.agent
    network = NetworkSpec(
        observation_dim,
        action_dim,
        agent.width,
        agent.depth,
        architecture=ARCHITECTURES[agent.name],
        critic_width=agent.critic_width,
        critic_layer_norm=agent.critic_layer_norm,
        initialization=agent.initialization,
        log_std=agent.log_std,
    )
    spec = SACSpec(
        network=network,
        discount=agent.discount,
        reward_scale=agent.reward_scale,
        polyak=agent.polyak,
        learning_rate=agent.learning_rate,
        temperature_learning_rate=agent.temperature_learning_rate,
        adam_epsilon=agent.adam_epsilon,
        max_gradient_norm=agent.max_gradient_norm,
        initial_temperature=agent.initial_temperature,
        target_entropy=agent.target_entropy,
        temperature=agent.temperature,
    )
    chosen = config.convention
    convention = Convention(chosen.own, chosen.scale, chosen.max_norm)
    further: dict[str, Any] = {
        "convention": convention,
        "compile": config.compile,
        "guard": config.guard,
    }
    if agent.name == "stl":
        return SingleTaskSAC(spec, config.seeds, tasks, device, **further)
    return SAC(spec, config.seeds, tasks, *make_methods(config), device, **further)


def make_learner(
    config: Config, tasks: int, observation_dim: int, action_dim: int, device: torch.device
) -> Learner:
    """Make the learner of a configuration, untrained."""
    agent = make_agent(config, tasks, observation_dim, action_dim, device)
    return Learner(config, agent, tasks, observation_dim, action_dim, device)


def make_envs(config: Config, tasks: tuple[str, ...], evaluation: bool) -> TaskVectorEnv:
    """Make the simulators of training, or the separate ones of evaluation."""
    return TaskVectorEnv(
        make_suite(config, tasks, evaluation),
        config.seeds,
        workers=config.eval.workers if evaluation else config.env.workers,
        role="eval" if evaluation else "train",
        timeout=config.env.worker_timeout,
    )


def make_trainer(config: Config, folder: RunFolder) -> Trainer:
    """Make the trainer of a run, at its beginning or at the checkpoint that it resumes from.

    After an error everything that was opened is closed, and the folder of a new run is removed.

    Args:
        config: validated.
        folder: the run's folder, new or to be resumed.

    Raises:
        ConfigError: tasks, memory or checkpoint do not allow this run.
        RunFolderError: the folder cannot be read or written.
    """
    with ExitStack() as undo:
        if config.resume is None:
            undo.callback(folder.discard)
        elif config.steps != folder.steps:
            folder.extend(config.steps)
        try:
            with ExitStack() as resources:
                trainer = _make_trainer(config, folder, resources)
                trainer.resources = resources.pop_all()
        except (ConfigError, RunFolderError):
            raise
        except (ValueError, MemoryError) as error:
            raise ConfigError(str(error)) from None
        undo.pop_all()
    return trainer


def _make_trainer(config: Config, folder: RunFolder, resources: ExitStack) -> Trainer:
    """Make the parts in the order of their dependencies; `resources` closes them."""
    tasks = tuple(config.env.tasks or task_names(config.env))
    envs = make_envs(config, tasks, evaluation=False)
    resources.push(_closing(envs))
    eval_envs = make_envs(config, tasks, evaluation=True)
    resources.push(_closing(eval_envs))
    dims = flatdim(envs.single_observation_space), flatdim(envs.single_action_space)
    learner = make_learner(config, len(tasks), *dims, resolve_device(config.device))

    saved = restore_learner(learner, folder, config)
    progress = Progress(0 if saved is None else saved.env_steps)
    simulators = None if saved is None else saved.state.get("environments")
    observations = envs.set_state(simulators) if simulators else envs.reset()[0]
    folder.rewind(saved)  # before the logger, whose file it would remove

    logger = Logger(
        folder.path,
        tasks,
        config.steps,
        progress.env_steps,
        resumed=saved is not None,
        progress=config.progress,
        alternative=_solver_advice(config),
    )
    resources.callback(logger.close)
    stop = StopController(config.grace_seconds)
    fault_monitor = FaultMonitor(config, tasks, learner, folder, logger)
    worker_restarts = WorkerRestarts(config.env.worker_restarts, logger, progress)
    evaluator = Evaluator(config, tasks, eval_envs, learner, folder, logger, worker_restarts, stop)
    if saved is not None:
        fault_monitor.save()
        worker_restarts.restore(saved.state.get("replaced", {}))
        evaluator.restore(saved)
    return Trainer(
        config=config,
        folder=folder,
        progress=progress,
        stop=stop,
        envs=envs,
        observations=observations,
        learner=learner,
        evaluator=evaluator,
        logger=logger,
        fault_monitor=fault_monitor,
        worker_restarts=worker_restarts,
    )


def _closing(envs: TaskVectorEnv) -> Callable[..., None]:
    """Return an exit callback that closes simulators, after Ctrl-C without waiting for them."""

    def close(kind: type[BaseException] | None, *_: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        envs.close(grace=0.0 if interrupted else GRACE_SECONDS)

    return close


def _solver_advice(config: Config) -> str | None:
    """What to advise if FairGrad's equation stays unsolved."""
    if config.method["name"] == "fairgrad" and config.method["solver"] == "sgd":
        return "method.solver=newton solves it exactly at about the same cost."
    return None
