"""A small learner fed with synthetic transitions."""

import functools

import numpy as np
import torch

from mtrl_fairgrad.agents import Transition
from mtrl_fairgrad.training.factory import make_learner
from tests.support.tiny_runs import composed

TASKS, OBSERVATION, ACTION = 2, 5, 3
SMALL = [
    "agent.width=8",
    "agent.depth=1",
    "agent.batch_size=4",
    "agent.buffer_size=30",
    "agent.warmup_steps=5",
]


configuration = functools.cache(composed)


def learner_of(*words):
    return make_learner(configuration(*words), TASKS, OBSERVATION, ACTION, torch.device("cpu"))


def transition(number, seeds, copies=1):
    """Transitions of step `number`; those of a seed do not depend on the other seeds."""

    def one(seed):
        draw = np.random.default_rng([number, seed]).standard_normal(
            (copies, TASKS, 2 * OBSERVATION + ACTION + 1)
        )
        return torch.from_numpy(draw).float()

    observations, actions, following, rewards = torch.stack([one(seed) for seed in seeds]).split(
        [OBSERVATION, ACTION, OBSERVATION, 1], dim=-1
    )
    rewards = rewards.squeeze(-1) * torch.tensor([1.0, 100.0])
    none = torch.zeros_like(rewards)
    return Transition(observations, actions.tanh(), rewards, following, none, none)


def go(learner, first, last, seeds=(0, 1)):
    for number in range(first, last):
        learner.learn(number)
        learner.store(transition(number, seeds))


def flat(learner):
    """All tensors of the learner's state, by name."""
    state = {
        f"{group}/{key}": value
        for group, found in learner.state().items()
        for key, value in found.items()
    }
    return {**state, "replay": learner.replay.rows[: learner.replay.added]}
