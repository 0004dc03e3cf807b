"""A small agent and reproducible random transitions for it."""

import pytest
import torch

from mtrl_fairgrad import make_method
from mtrl_fairgrad.agents import SAC, Batch, Noise, SeedStreams
from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.config.guard import CHECKS, CONDITIONS

TASKS, BATCH, OBSERVATION, ACTION = 3, 16, 6, 2
DIMENSIONS = (OBSERVATION, ACTION)


def small_config(name="mtsac", **changes):
    """Hyper-parameters with networks of two hidden layers of 24 units."""
    return AgentConfig(name, **{"width": 24, "depth": 2, **changes})


def make_agent(
    seeds=(0,), method="fairgrad", dtype=torch.float64, tasks=TASKS, options=None, **changes
):
    critic, actor = (make_method(method, **(options or {})) for _ in range(2))
    return SAC(small_config(**changes), *DIMENSIONS, seeds, tasks, critic, actor, dtype=dtype)


def draw_update(streams, dtype=torch.float64, tasks=TASKS):
    """Draw a batch and noise from each seed's own stream."""

    def normal(*shape):
        return streams.normal(tasks, BATCH, *shape).to(dtype)

    batch = Batch(
        normal(OBSERVATION),
        normal(ACTION).tanh(),
        normal(),
        normal(OBSERVATION),
        (normal() > 1).to(dtype),
    )
    return batch, Noise(normal(ACTION), normal(ACTION))


def train(agent, seeds, updates, dtype=torch.float64):
    streams = SeedStreams(seeds)
    for _ in range(updates):
        info = agent.update(*draw_update(streams, dtype))
    return info.metrics()


def learn(agent, streams, updates):
    """Make updates with random numbers for the agent's methods; return the last one's metrics."""
    for _ in range(updates):
        batch, noise = draw_update(streams)
        numbers = [
            method.draw(streams.generators) for method in (agent.critic_method, agent.actor_method)
        ]
        info = agent.update(batch, Noise(noise.next_actions, noise.actions, *numbers))
    return info.metrics()


def first_faults(agent):
    """Return the first update with a non-finite loss or gradient, `[S, K]`; −1 if there is none."""
    first = torch.stack(
        [agent.faults().first[CHECKS.index((network, "non_finite"))] for network in CONDITIONS]
    )
    return (
        torch.where(first < 0, torch.iinfo(first.dtype).max, first)
        .amin(0)
        .where((first >= 0).any(0), -1)
    )


@pytest.fixture
def build():
    return make_agent
