"""The parts of a run, made from its configuration: device, tasks, method, agent, simulators."""

from __future__ import annotations

import re

import torch

from agents import SAC, NetworkSpec, SACSpec
from envs import MetaworldVectorEnv, resolve_tasks
from mtrl_fairgrad.config import AgentConfig, Config, ConfigError
from mtrl_fairgrad.weighting import Method, make


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device that is there.

    Raises:
        ConfigError: it is not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"device={name} is unknown: choose auto, cpu, cuda or cuda:N.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={name} was asked for but this machine has {torch.cuda.device_count()} CUDA devices that PyTorch "
            f"{torch.__version__} can use: choose device=cpu, or install a CUDA build of PyTorch."
        )
    return torch.device(name)


def task_names(config: Config) -> tuple[str, ...]:
    """The tasks of the run, in order.

    Raises:
        ConfigError: unknown suite or task.
    """
    try:
        return resolve_tasks(config.env.suite, tasks=config.env.tasks, task=config.env.task)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def make_method(config: Config) -> Method:
    """A fresh instance of the configured method."""
    options = {key: value for key, value in config.method.items() if key != "name"}
    return make(config.method["name"], **options)


def make_agent(config: Config, tasks: int, observation_dim: int, action_dim: int, device: torch.device) -> SAC:
    """The agent of a configuration, untrained."""
    agent: AgentConfig = config.agent
    spec = SACSpec(
        network=NetworkSpec(observation_dim, action_dim, agent.width, agent.depth),
        discount=agent.discount,
        reward_scale=agent.reward_scale,
        polyak=agent.polyak,
        learning_rate=agent.learning_rate,
        temperature_learning_rate=agent.temperature_learning_rate,
        adam_epsilon=agent.adam_epsilon,
        max_gradient_norm=agent.max_gradient_norm,
        initial_temperature=agent.initial_temperature,
        target_entropy=agent.target_entropy,
    )
    return SAC(spec, config.seeds, tasks, make_method(config), make_method(config), device)


def make_envs(config: Config, tasks: tuple[str, ...], evaluation: bool) -> MetaworldVectorEnv:
    """The simulators of training, or the separate ones of evaluation."""
    return MetaworldVectorEnv(
        tasks,
        config.seeds,
        workers=config.eval.workers if evaluation else config.env.workers,
        horizon=config.env.horizon,
        one_hot=config.env.one_hot,
        reward_version=config.env.reward_version,
        terminate_on_success=evaluation,
        role="eval" if evaluation else "train",
    )
