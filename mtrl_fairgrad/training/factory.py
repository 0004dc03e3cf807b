"""Make a trainer and its parts from a configuration: tasks, simulators, methods, agent, learner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from gymnasium.spaces import flatdim

from mtrl_fairgrad.agents import SAC, Agent, SingleTaskSAC
from mtrl_fairgrad.config.agent import ARCHITECTURES
from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.envs.gymnasium_suite import gymnasium_suite
from mtrl_fairgrad.envs.metaworld import MetaworldSuite
from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.envs.workers.pool import (
    GRACE_SECONDS,
    LossHandler,
    WorkerLost,
    retry_after_losses,
)
from mtrl_fairgrad.gradients.conventions import Convention
from mtrl_fairgrad.runs.resume_log import add_resume
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.training.callbacks import Callbacks
from mtrl_fairgrad.training.evaluator import Evaluator, saved_evaluation
from mtrl_fairgrad.training.execution import execution_of, resume_provenance
from mtrl_fairgrad.training.fault_monitor import FaultMonitor
from mtrl_fairgrad.training.learner import Learner
from mtrl_fairgrad.training.logger import Logger
from mtrl_fairgrad.training.progress import Progress
from mtrl_fairgrad.training.restore import (
    by_half,
    load_running_steps,
    restore_learner,
    simulator_state,
)
from mtrl_fairgrad.training.signals import StopController
from mtrl_fairgrad.training.simulator_faults import SimulatorFaults
from mtrl_fairgrad.training.trainer import Trainer
from mtrl_fairgrad.training.update_schedule import updates_of_run
from mtrl_fairgrad.training.worker_restarts import (
    WorkerRestarts,
    collect_losses,
    startup_error,
)
from mtrl_fairgrad.utils.device import resolve_device
from mtrl_fairgrad.weighting import Method, make_method
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair


def make_suite(config: Config, tasks: tuple[str, ...], evaluation: bool = False) -> Suite:
    """Make the suite of a run: its tasks and how they are simulated.

    Args:
        config: validated.
        tasks: names, in the order of the task axis.
        evaluation: for evaluations, where `eval.full_episodes` decides whether Meta-World's
            episodes end at the first success.

    Raises:
        ConfigError: a task cannot be made or trained on, or does not have the given options.
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
            terminate_on_success=evaluation and not config.eval.full_episodes,
            goal_choice=str(env.goals),
            observation=str(env.observation),
            fast=bool(env.fast),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def make_training_suite(config: Config, tasks: tuple[str, ...]) -> Suite:
    """Make the suite of the training simulators, whose episodes may have a length of their own."""
    horizon = config.env.train_horizon or config.env.horizon
    return make_suite(replace(config, env=replace(config.env, horizon=horizon)), tasks)


def protocol(config: Config, suite: Suite) -> dict[str, str]:
    """Return the evaluation protocol for the manifest.

    Together with `env` in the configuration it defines what a success rate means; reports do not
    average rates of different protocols.
    """
    episodes = len(suite.goals(config.seeds[0], suite.tasks[0]))
    entries = {
        **suite.protocol(),
        "last_evaluation": f"{episodes} episode{'s' if episodes > 1 else ''}",
    }
    if config.env.name.endswith("_paper"):
        entries["simulators"] += ", not the paper's of 2021"
    return entries


def make_methods(config: Config) -> tuple[Method, Method]:
    """Make the methods of the critics and of the actor: two instances, since methods have state.

    Both are the configured method, with two exceptions because an actor's losses may be negative:
    `loss_alpha` applies to the critics only, and instead of a method that needs positive losses the
    actor uses linear scalarisation.
    """
    options = {key: value for key, value in config.method.items() if key != "name"}
    critic, actor = (make_method(config.method["name"], **options) for _ in range(2))
    if config.loss_alpha is not None:
        critic = alpha_fair(critic, config.loss_alpha)
    return critic, make_method("ls", reduction="mean") if actor.needs_positive_losses else actor


def methods_by_network(config: Config) -> dict[str, str]:
    """Describe the methods of critics and actor, for the manifest."""
    transformed = "" if config.loss_alpha is None else f" with loss_alpha={config.loss_alpha:g}"
    return {
        "critic": f"{config.method['name']}{transformed}",
        "actor": str(make_methods(config)[1].name),
    }


def startup_notes(config: Config) -> list[str]:
    """Return notes, of one sentence, on options that have no effect or differ for the actor."""
    name, used, notes = config.method["name"], methods_by_network(config), list[str]()
    if config.loss_alpha is not None:
        notes.append(
            f"the critics are trained by {used['critic']}; the actor, whose losses may be "
            f"negative, by {used['actor']}"
        )
    elif used["actor"] != name:
        notes.append(
            f"method={name} needs positive losses, so the actor, "
            f"whose losses may be negative, uses {used['actor']}"
        )
    if (config.convention.name, name) == ("libmtl", "nash_mtl"):
        notes.append(
            "convention=libmtl leaves the direction as long as it is, where LibMTL clips that of "
            "Nash-MTL to norm 1: convention=libmtl_nash_mtl does"
        )
    if config.convention.own != "plain" and not any(ARCHITECTURES[config.agent.name]):
        notes.append(
            f"agent={config.agent.name} has no task-specific parameters, so "
            f"convention.own={config.convention.own} has no effect"
        )
    return notes


def make_agent(
    config: Config, tasks: int, observation_dim: int, action_dim: int, device: torch.device
) -> Agent:
    """Make the agent of a configuration, untrained."""
    chosen = config.convention
    settings: dict[str, Any] = {
        "device": device,
        "convention": Convention(chosen.own, chosen.scale, chosen.max_norm),
        "compile": execution_of(config, device).compile,
        "guard": config.guard,
        "precision": config.precision,
        "updates": updates_of_run(config.agent, config.steps, config.env.copies),
        "identity": tasks if config.env.one_hot else 0,
    }
    sizes = (observation_dim, action_dim, config.seeds, tasks)
    if config.agent.name == "stl":
        return SingleTaskSAC(config.agent, *sizes, **settings)
    return SAC(config.agent, *sizes, *make_methods(config), **settings)


def make_learner(
    config: Config, tasks: int, observation_dim: int, action_dim: int, device: torch.device
) -> Learner:
    """Make the learner of a configuration, untrained."""
    agent = make_agent(config, tasks, observation_dim, action_dim, device)
    return Learner(config, agent, tasks, observation_dim, action_dim, device)


def make_envs(
    config: Config, tasks: tuple[str, ...], evaluation: bool, on_lost: LossHandler | None = None
) -> TaskVectorEnv:
    """Make the simulators of training, or the separate ones of evaluation.

    `on_lost`: see `TaskVectorEnv`.
    """
    timeout = config.env.worker_timeout
    if evaluation:
        suite = make_suite(config, tasks, evaluation=True)
        return TaskVectorEnv(
            suite, config.seeds, config.eval.workers, "eval", timeout, on_lost=on_lost
        )
    return TaskVectorEnv(
        make_training_suite(config, tasks),
        config.seeds,
        config.env.workers,
        "train",
        timeout,
        config.env.copies,
        config.env.stagger,
        on_lost,
    )


def make_trainer(config: Config, folder: RunFolder, callbacks: Sequence[object] = ()) -> Trainer:
    """Make the trainer of a run, at its beginning or at the checkpoint that it resumes from.

    After an error everything that was opened is closed, and the folder of a new run is removed.

    Args:
        config: validated.
        folder: the run's folder, new or to be resumed.
        callbacks: see `mtrl_fairgrad.training.callbacks`.

    Raises:
        ConfigError: tasks, memory or checkpoint do not allow this run, or an object is no callback.
        RunFolderError: the folder cannot be read or written.
    """
    with ExitStack() as undo:
        if config.resume is None:
            undo.callback(folder.discard)
        try:
            with ExitStack() as resources:
                trainer = _make_trainer(config, folder, Callbacks(callbacks), resources)
                trainer.resources = resources.pop_all()
        except (ConfigError, RunFolderError):
            raise
        except WorkerLost as lost:
            raise startup_error(lost) from None
        except (ValueError, MemoryError) as error:
            raise ConfigError(str(error)) from None
        undo.pop_all()
    return trainer


def _make_trainer(
    config: Config, folder: RunFolder, callbacks: Callbacks, resources: ExitStack
) -> Trainer:
    """Make the parts in the order of their dependencies; `resources` closes them."""
    tasks = tuple(config.env.tasks or task_names(config.env))
    lost = list[WorkerLost]()
    on_lost = collect_losses(lost, config.env.worker_restarts)
    envs = make_envs(config, tasks, False, on_lost)
    resources.push(_closing(envs))
    eval_envs = make_envs(config, tasks, True, on_lost)
    resources.push(_closing(eval_envs))
    dims = flatdim(envs.single_observation_space), flatdim(envs.single_action_space)
    learner = make_learner(config, len(tasks), *dims, resolve_device(config.device))
    # Memory counts as free until it is written to, so that it would be promised to other runs, too.
    learner.replay.rows[: config.steps].zero_()

    saved = restore_learner(learner, folder, config, envs.largest_state)
    progress = Progress(0 if saved is None else saved.env_steps, envs.copies)
    simulators = None if saved is None else simulator_state(saved)
    current = retry_after_losses(
        lambda: envs.set_state(simulators) if simulators else envs.reset()[0], on_lost
    )
    observations = by_half(envs, current)
    actions = {} if saved is None else load_running_steps(saved, observations, dims[1])
    faults = SimulatorFaults(config.seeds, tasks)
    evaluation = None
    if saved is not None:
        faults.restore(saved.state.get("non_finite"))
        evaluation = saved_evaluation(saved, learner, folder)
        replaced = sum(saved.state.get("replaced", {}).values()) + len(lost)
        if lost and replaced > config.env.worker_restarts:
            raise startup_error(lost[-1])
    # Only now that nothing can be refused any more, the folder is changed.
    folder.rewind(saved)  # before the logger, whose file it would remove
    if config.steps != folder.steps:
        folder.extend(config.steps)
    if config.resume is not None:
        here, at = resume_provenance(config, learner.device), progress.env_steps
        add_resume(folder.path, here, env_steps=at, steps=config.steps)

    logger = Logger(
        folder.path,
        tasks,
        config.steps,
        progress.env_steps,
        resumed=saved is not None,
        progress=config.progress,
        alternative=_solver_advice(config),
        seeds=config.seeds,
        backends=config.logger,
    )
    resources.callback(logger.close)
    logger.describe(config, progress.env_steps + (saved is not None))
    stop = StopController()
    fault_monitor = FaultMonitor(config, tasks, learner, folder, logger, progress, faults)
    worker_restarts = WorkerRestarts(config.env.worker_restarts, logger, progress)
    evaluator = Evaluator(
        config,
        tasks,
        eval_envs,
        learner,
        folder,
        logger,
        worker_restarts,
        fault_monitor,
        stop,
        callbacks,
    )
    if saved is not None:
        fault_monitor.save()
        worker_restarts.restore(saved.state.get("replaced", {}))
        evaluator.running = evaluation
    worker_restarts.record_starts(lost)
    return Trainer(
        config=config,
        folder=folder,
        progress=progress,
        stop=stop,
        envs=envs,
        observations=observations,
        actions=actions,
        learner=learner,
        evaluator=evaluator,
        logger=logger,
        fault_monitor=fault_monitor,
        worker_restarts=worker_restarts,
        callbacks=callbacks,
    )


def _closing(envs: TaskVectorEnv) -> Callable[..., None]:
    """Return an exit callback that closes simulators, after Ctrl-C without waiting for them."""

    def close(kind: type[BaseException] | None, *_: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        envs.close(grace=0.0 if interrupted else GRACE_SECONDS)

    return close


def _solver_advice(config: Config) -> str | None:
    """Return the advice to print if FairGrad's equation stays unsolved; None for no advice."""
    if config.method["name"] == "fairgrad" and config.method["solver"] == "sgd":
        return "method.solver=newton solves it exactly at about the same cost."
    return None
