"""Small learners on a GPU, fed with synthetic transitions."""

import numpy as np
import torch

from mtrl_fairgrad.agents import Transition
from mtrl_fairgrad.gradients.cuda_graph import WARM_UP
from mtrl_fairgrad.training.factory import make_learner
from tests.support.small_learner import ACTION, OBSERVATION, SMALL, configuration, flat

FIRST = 5
"""Steps of warm-up without updates, see `SMALL`."""
REPLAYS = 50
STEPS = FIRST + WARM_UP + REPLAYS
EAGER, GRAPH = "cuda_graph=false", "cuda_graph=auto"


def learner_on(device, *words, tasks=3):
    """A learner that does not compile unless the words say so."""
    return make_learner(
        configuration(*SMALL, "compile=false", *words), tasks, OBSERVATION, ACTION, device
    )


def method_words(name):
    return ["agent=stl"] if name == "stl" else [f"method={name}"]


def feed(learner, steps=STEPS, start=0):
    """Learn and store by turns."""
    seeds, tasks = learner._shape
    for number in range(start, start + steps):
        learner.learn(number)
        draw = np.random.default_rng(number).standard_normal(
            (seeds, 1, tasks, 2 * OBSERVATION + ACTION + 1)
        )
        parts = torch.from_numpy(draw).float().to(learner.device)
        observations, actions, following, rewards = parts.split(
            [OBSERVATION, ACTION, OBSERVATION, 1], dim=-1
        )
        rewards = rewards.squeeze(-1)
        none = torch.zeros_like(rewards)
        learner.store(Transition(observations, actions.tanh(), rewards, following, none, none))
    return learner


def assert_same_state(found, expected, exact=False):
    """Compare all tensors of two learners; bit for bit, or within rounding of 50 updates."""
    ours, theirs = flat(found), flat(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].isfinite().all() if value.is_floating_point() else True, name
        if exact:
            assert torch.equal(ours[name], value), name
        else:
            torch.testing.assert_close(
                ours[name],
                value,
                rtol=1e-3,
                atol=1e-5,
                msg=lambda text, name=name: f"{name}: {text}",
            )


def is_replayed(learner):
    return learner._graph is not None and bool(learner._graph.captured)
