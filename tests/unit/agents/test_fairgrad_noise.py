"""FairGrad's responses to noise in an agent: seeds apart, exact continuation, length."""

import pytest
import torch

from mtrl_fairgrad import FairGrad
from mtrl_fairgrad.agents import SAC, SeedStreams
from tests.unit.agents.conftest import DIMENSIONS, TASKS, draw_update, small_config

RESPONSES = {
    "gramian": "half_batches",
    "gramian_decay": 0.9,
    "solve_every": 3,
    "weight_ratio": 3.0,
    "length": "ls",
}
SEEDS = (3, 5)
every = pytest.mark.parametrize(
    "architecture", [pytest.param("mtsac_te", marks=pytest.mark.exhaustive), "mtsac", "mhsac"]
)


def agent_of(architecture, seeds=SEEDS, **changes):
    methods = [FairGrad(2, **RESPONSES) for _ in range(2)]
    config = small_config(architecture, **changes)
    return SAC(config, *DIMENSIONS, seeds, TASKS, *methods, dtype=torch.float64)


def learn(agent, streams, updates):
    return [agent.update(*draw_update(streams)) for _ in range(updates)][-1]


@every
def test_a_seed_among_others_learns_as_alone(architecture):
    together = agent_of(architecture)
    learn(together, SeedStreams(SEEDS), 7)
    for index, seed in enumerate(SEEDS):
        alone = agent_of(architecture, (seed,))
        learn(alone, SeedStreams((seed,)), 7)
        for name, value in together.policy().items():
            torch.testing.assert_close(value[index], alone.policy()[name][0], rtol=1e-6, atol=1e-9)


@every
def test_a_restored_agent_goes_on_bit_for_bit(architecture):
    whole, restored = agent_of(architecture), agent_of(architecture)
    streams = SeedStreams(SEEDS)
    learn(whole, streams, 4)
    state = {name: value.clone() for name, value in whole.state().items()}
    updates = [draw_update(streams) for _ in range(5)]
    for update in updates:
        whole.update(*update)
    restored.load_state(state)
    for update in updates:
        restored.update(*update)
    expected = whole.state()
    assert "critic_method/average" in expected
    for name, value in restored.state().items():
        assert torch.equal(value, expected[name]), name


def test_the_direction_is_as_long_as_that_of_the_mean_loss():
    info = learn(agent_of("mtsac"), SeedStreams(SEEDS), 2)
    for network in (info.critic, info.actor):
        expected = network.gramian.mean((-2, -1)).sqrt()
        torch.testing.assert_close(network.gradient_norm, expected)
