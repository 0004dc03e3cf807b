"""First parameters of actor, critics and temperatures, each seed's from its own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mtrl_fairgrad.agents import networks
from mtrl_fairgrad.agents.networks import Parameters
from mtrl_fairgrad.agents.rng import RESETS, derived_seed
from mtrl_fairgrad.config.agent import AgentConfig


def initial_parameters(
    config: AgentConfig,
    sizes: tuple[int, int, int],
    seeds: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    reset: int = 0,
) -> tuple[Parameters, Parameters, Parameters]:
    """Initialise actor, critics and temperatures of all seeds.

    Args:
        config: the agent's.
        sizes: O, A and K.
        seeds: the run's.
        device: of the result.
        dtype: of the result.
        reset: number of the reset; 0 at the start of a run.
    """
    actors, critics = [], []
    for seed in seeds:
        start = derived_seed(seed, RESETS, reset) if reset else seed
        generator = torch.Generator().manual_seed(start)
        actors.append(networks.init_actor(config, *sizes, generator))
        critics.append(networks.init_critics(config, *sizes, generator))
    shape = len(seeds), sizes[-1]
    temperature = torch.full(shape, config.initial_temperature, device=device, dtype=dtype)
    return (
        networks.stack_seeds(actors, device, dtype),
        networks.stack_seeds(critics, device, dtype),
        Parameters({}, {"log_temperature": temperature.log()}),
    )
