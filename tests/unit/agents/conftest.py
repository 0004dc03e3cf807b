"""A small agent and random transitions for it, seeds and data fixed."""

import pytest
import torch

from mtrl_fairgrad import make_method
from mtrl_fairgrad.agents import SAC, Batch, NetworkSpec, SACSpec, SeedStreams
from mtrl_fairgrad.agents.sac import Noise
from mtrl_fairgrad.config.guard import ALL, CONDITIONS

TASKS, BATCH, OBSERVATION, ACTION = 3, 16, 6, 2


def make_agent(
    seeds=(0,), method="fairgrad", dtype=torch.float64, tasks=TASKS, options=None, **changes
):
    spec = SACSpec(NetworkSpec(OBSERVATION, ACTION, width=24, depth=2), **changes)
    options = options or {}
    return SAC(spec, seeds, tasks, make_method(method, **options), make_method(method, **options), dtype=dtype)


def draw_update(streams, dtype=torch.float64, tasks=TASKS):
    """A batch and noise from each seed's own stream."""

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
        metrics = agent.update(*draw_update(streams, dtype))
    return metrics


def learn(agent, streams, updates):
    """Updates with the numbers that the agent's methods draw, too."""
    for _ in range(updates):
        batch, noise = draw_update(streams)
        numbers = [
            method.draw(streams.generators) for method in (agent.critic_method, agent.actor_method)
        ]
        metrics = agent.update(batch, Noise(noise.next_actions, noise.actions, *numbers))
    return metrics


def first_faults(agent):
    """`[S, K]`: the first update in which a task's loss or gradient was not finite, −1 where none
    was.
    """
    first = torch.stack(
        [agent.faults().first[ALL.index((network, "non_finite"))] for network in CONDITIONS]
    )
    return (
        torch.where(first < 0, torch.iinfo(first.dtype).max, first)
        .amin(0)
        .where((first >= 0).any(0), -1)
    )


@pytest.fixture
def build():
    return make_agent
