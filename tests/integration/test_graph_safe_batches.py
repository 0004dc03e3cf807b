"""Storing, sampling and acting with every normalisation, traced as on a GPU without one.

Nothing waits for the device, and a CUDA graph can hold whole updates.
"""

import dataclasses

import pytest
import torch
from benchmarking.fake_cuda import DEVICE, answer_with_fakes, fake_cuda
from benchmarking.launches import _captured_functions, fake_draw, traced

from mtrl_fairgrad.agents import Transition
from mtrl_fairgrad.training import learner as learner_module
from mtrl_fairgrad.training.factory import make_learner
from mtrl_fairgrad.weighting.host import host_calls
from tests.support.small_learner import ACTION, OBSERVATION, SMALL, TASKS, configuration

SCALED = [
    "agent.n_step=3",
    "agent.return_normalization=per_task",
    "agent.observation_normalization=running",
    "seeds=[0,1]",
    "env.copies=4",
]


def fake(*shape, dtype=torch.float32):
    return torch.empty(2, *shape, device=DEVICE, dtype=dtype)


@pytest.fixture
def no_card(monkeypatch):
    """Replace what needs a driver: random streams and the recorder of graphs."""
    for name in ("SeedStreams", "CudaRecorder"):
        monkeypatch.setattr(learner_module, name, lambda *arguments: None)


@pytest.mark.parametrize(
    "agent", ["mtsac", pytest.param("mtsac_te", marks=pytest.mark.exhaustive), "mhsac", "stl"]
)
def test_storing_sampling_updating_and_acting_never_wait_for_the_device(agent, no_card):
    config = configuration(*SMALL, *SCALED, f"agent={agent}")
    config = dataclasses.replace(config, compile="false", cuda_graph="false")
    with fake_cuda():
        learner = make_learner(config, TASKS, OBSERVATION, ACTION, DEVICE)
        half = (2, TASKS)
        step = Transition(
            fake(*half, OBSERVATION),
            fake(*half, ACTION),
            fake(*half),
            fake(*half, OBSERVATION),
            fake(*half),
            fake(*half),
        )
        for _ in range(20):  # around the end of the ring
            with traced() as stored:
                learner.store(step)
        with traced():
            learner.restart_episodes()
        noise = fake_draw(learner.agent, config, OBSERVATION, ACTION)[1]
        drawn = fake(TASKS, config.agent.batch_size, dtype=torch.int64), noise
        with host_calls(answer_with_fakes):
            for each in _captured_functions(learner.agent):
                each.after = 0
            learner._update(drawn)
        with traced() as sampled:
            batch = learner.sample(drawn[0])
        with traced() as updated:
            learner._update(drawn)
        with traced():
            learner.agent.act(fake(TASKS, OBSERVATION), fake(TASKS, ACTION))
    assert batch.discounts.shape == (2, TASKS, config.agent.batch_size)
    assert 0 < sampled.launches < 60 < updated.launches
    assert 0 < stored.launches < 80
