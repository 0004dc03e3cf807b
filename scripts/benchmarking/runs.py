"""Real training runs for the benchmark to look at: their configuration, and a trainer in a folder
of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.schema import AgentConfig, Config, EnvConfig, EvalConfig, validate
from mtrl_fairgrad.training.factory import make_trainer
from mtrl_fairgrad.training.run_setup import open_folder
from mtrl_fairgrad.training.trainer import Trainer
from mtrl_fairgrad.weighting import method_options

from .settings import Settings


def configuration(
    settings: Settings, agent: AgentConfig, env: EnvConfig, seeds: int, **others: Any
) -> Config:
    """FairGrad (newton) on the settings' device, on one thread, without a progress bar; validated."""
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


@contextmanager
def training(config: Config) -> Iterator[Trainer]:
    """A new run's trainer in a temporary folder, on as many threads as the configuration says."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config.run_dir = str(Path(folder) / "run")
            with make_trainer(config, open_folder(config, [], config.device)) as trainer:
                yield trainer
    finally:
        torch.set_num_threads(before)
