"""The policy that an evaluation plays: a run's checkpoint, or an exported policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtrl_fairgrad.agents import Agent, PolicyModule, SeedPolicies
from mtrl_fairgrad.analysis.run_groups import protocol_of
from mtrl_fairgrad.config.schema import Config, check_parts, from_stored
from mtrl_fairgrad.evaluation.policy_export import ExportedPolicy, load_policy
from mtrl_fairgrad.runs.policy_description import sizes
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.factory import make_agent, make_suite
from mtrl_fairgrad.utils.validation import ConfigError


@dataclass(frozen=True)
class EvaluationTarget:
    """A policy of S seeds and K tasks, of a run or `exported`."""

    folder: Path
    """Default folder of results."""
    config: Config
    tasks: tuple[str, ...]
    env_steps: int
    act: Callable[[Tensor], Tensor]
    """Maps observations `[S, K, O]` to modes `[S, K, A]`, both on the CPU."""
    protocol: str
    """The protocol as one line."""
    modules: tuple[PolicyModule, ...] = ()
    """Of a run: the policy of each seed."""
    updates: int | None = None
    """Of a run: number of updates that made it."""
    manifest: dict[str, Any] | None = None
    """Of a run."""
    exported: ExportedPolicy | None = None


def open_run(run: Path, step: int | None, workers: int | None) -> EvaluationTarget:
    """Load a checkpoint of a run.

    Args:
        run: run folder.
        step: env_steps of the checkpoint; None for the newest.
        workers: number of simulator processes; None for one per core.

    Raises:
        ConfigError: configuration or checkpoint cannot be used.
        RunFolderError: there is no run or no intact checkpoint.
    """
    folder = RunFolder.open(run)
    config = from_stored(folder.config, folder.path / "config.yaml")
    check_parts(config)
    config.eval.workers = workers
    tasks = tuple(config.env.tasks or ())
    agent, env_steps = load_agent(folder, config, tasks, step)
    modules = agent.policy_modules()
    return EvaluationTarget(
        folder=folder.path,
        config=config,
        tasks=tasks,
        env_steps=env_steps,
        act=SeedPolicies(module.act for module in modules),
        protocol=protocol_of(folder, tasks),
        modules=modules,
        updates=int(agent.updates),
        manifest=folder.manifest,
    )


def open_policy(path: Path, workers: int | None) -> EvaluationTarget:
    """Load an exported policy, given its JSON or its program; it runs on the CPU.

    Raises:
        ConfigError: a file is missing, damaged or not an exported policy.
    """
    exported = load_policy(path)
    config = from_stored(exported.description["config"], exported.path)
    check_parts(config)
    suite = make_suite(config, tuple(exported.description["tasks"]))
    needed = suite.observation_size, suite.action_size
    if sizes(exported.description) != needed:
        raise ConfigError(
            f"{exported.path} describes observations and actions of {sizes(exported.description)} "
            f"numbers, but its environments have {needed}: export the policy again."
        )
    config.eval.workers = workers
    name = exported.path.with_suffix("").name
    return EvaluationTarget(
        folder=exported.path.with_name(f"{name}-evaluation"),
        config=config,
        tasks=tuple(config.env.tasks or ()),
        env_steps=exported.description["training"]["env_steps"],
        act=SeedPolicies([exported.act]),
        protocol=exported.description["protocol"]["in_words"],
        exported=exported,
    )


def load_agent(
    folder: RunFolder,
    config: Config,
    tasks: tuple[str, ...],
    step: int | None,
) -> tuple[Agent, int]:
    """Load a checkpoint's agent on the CPU, the newest if `step` is None; also its env_steps."""
    saved = folder.load_checkpoint(step, groups=("agent",))
    suite = make_suite(config, tasks)
    agent = make_agent(
        config, len(tasks), suite.observation_size, suite.action_size, torch.device("cpu")
    )
    try:
        agent.load_state(saved.groups["agent"])
    except (ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"the checkpoint in {folder.path} does not fit its own configuration: {error}"
        ) from None
    return agent, saved.env_steps
