"""Training runs for the benchmark: their configuration, and a trainer in a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gymnasium.spaces import flatdim

from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.schema import AgentConfig, Config, EnvConfig, EvalConfig, validate
from mtrl_fairgrad.training import loop
from mtrl_fairgrad.training.factory import make_learner, make_trainer
from mtrl_fairgrad.training.run_setup import open_folder
from mtrl_fairgrad.training.trainer import Trainer
from mtrl_fairgrad.weighting import method_options

from .settings import Settings


def configuration(
    settings: Settings, agent: AgentConfig, env: EnvConfig, seeds: int, **others: Any
) -> Config:
    """Return a validated configuration of FairGrad on one thread, without a progress bar."""
    method = {"name": "fairgrad", **method_options("fairgrad"), "solver": "newton"}
    config = Config(
        **{"eval": EvalConfig(workers=0 if settings.quick else 1), **others},
        agent=agent,
        env=env,
        method=method,
        seeds=list(range(seeds)),
        device=str(settings.device),
        threads=1,
        progress=False,
    )
    config.env.tasks = list(task_names(config.env))
    validate(config)
    return config


def begin(trainer: Trainer, config: Config) -> None:
    """Give a trainer a new learner, and step past the warm-up.

    The simulators stay the same, because they take long to build.
    """
    spaces = trainer.envs.single_observation_space, trainer.envs.single_action_space
    observation, action = (flatdim(space) for space in spaces)
    trainer.config, trainer.progress.env_steps = config, 0
    trainer.learner = make_learner(
        config, len(config.env.tasks or ()), observation, action, trainer.learner.device
    )
    while not trainer.learner.updates:
        loop.step(trainer)


@contextmanager
def training(config: Config) -> Iterator[Trainer]:
    """Yield the trainer of a new run in a temporary folder, with the configuration's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config.run_dir = str(Path(folder) / "run")
            with make_trainer(config, open_folder(config, [], config.device)) as trainer:
                yield trainer
    finally:
        torch.set_num_threads(before)
