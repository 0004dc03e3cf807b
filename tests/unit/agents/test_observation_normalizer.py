"""Observations are normalised by their seed's running statistics, the identity is not."""

import pytest
import torch

from mtrl_fairgrad import LS
from mtrl_fairgrad.agents import SAC, ObservationNormalizer, SingleTaskSAC
from mtrl_fairgrad.agents.observation_normalizer import EPSILON, normalized
from tests.unit.agents.conftest import ACTION, TASKS, small_config

SEEDS, COPIES, ENTRIES = 2, 4, 5
OBSERVATION = ENTRIES + TASKS
MEANS = torch.tensor([0.0, 3.0, -100.0, 1e-3, 7.0])
SIZES = torch.tensor([1.0, 0.1, 50.0, 1e-6, 0.0])


def observations(steps):
    """Observations with a one-hot identity, `[steps, S, E, K, O]`; the last entry is constant."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(steps, SEEDS, COPIES, TASKS, ENTRIES, generator=generator)
    identity = torch.eye(TASKS).expand(steps, SEEDS, COPIES, TASKS, TASKS)
    return torch.cat([drawn * SIZES + MEANS, identity], dim=-1)


def fed(given):
    made = ObservationNormalizer(given.shape[1], OBSERVATION, TASKS)
    for step in given:
        for half in step.chunk(2, dim=1):
            made.update(half)
    return made


def test_statistics_equal_those_of_all_observations_at_once():
    given = observations(50)
    made = fed(given)
    for s in range(SEEDS):
        of_seed = given[:, s].reshape(-1, OBSERVATION)[:, :ENTRIES].double()
        mean, deviation = of_seed.mean(0), of_seed.std(0, correction=0)
        parameters = {name: value[s, :ENTRIES] for name, value in made.parameters.items()}
        torch.testing.assert_close(parameters["mean"], mean.float(), rtol=1e-6, atol=1e-9)
        expected = (1 / (deviation + EPSILON)).float()
        torch.testing.assert_close(parameters["scale"], expected, rtol=1e-6, atol=0)


def test_normalised_observations_have_zero_mean_and_unit_deviation_and_keep_the_identity():
    given = observations(400)
    result = normalized(given.movedim(0, 1), fed(given).parameters)
    entries = result[..., :2].flatten(1, 3)
    torch.testing.assert_close(entries.mean(1), torch.zeros(SEEDS, 2), rtol=0, atol=1e-3)
    torch.testing.assert_close(entries.std(1), torch.ones(SEEDS, 2), rtol=0.15, atol=0)
    assert torch.equal(result[..., ENTRIES:], given.movedim(0, 1)[..., ENTRIES:])


def test_a_constant_entry_becomes_zero():
    given = observations(10)
    result = normalized(given[0], fed(given).parameters)
    assert torch.equal(result[..., 4], torch.zeros_like(result[..., 4]))


def test_without_any_observation_nothing_changes():
    made, given = ObservationNormalizer(SEEDS, OBSERVATION, TASKS), observations(1)[0]
    assert torch.equal(normalized(given, made.parameters), given)
    made.load_state(made.state())
    assert torch.equal(normalized(given, made.parameters), given)
    assert normalized(given, {}) is given


def test_a_seed_is_normalised_with_others_as_it_is_alone():
    given = observations(30)
    together, alone = fed(given), fed(given[:, 1:])
    for name, value in together.parameters.items():
        assert torch.equal(value[1:], alone.parameters[name]), name


def test_a_restored_normalizer_continues_bit_for_bit():
    given = observations(20)
    whole, restored = fed(given[:10]), ObservationNormalizer(SEEDS, OBSERVATION, TASKS)
    restored.load_state({name: value.clone() for name, value in whole.state().items()})
    for made in (whole, restored):
        for step in given[10:]:
            made.update(step)
    for name, value in whole.parameters.items():
        assert torch.equal(value, restored.parameters[name]), name


# ---- as part of an agent ----


def agent_of(name):
    config = small_config(name, observation_normalization="running")
    sizes = (config, OBSERVATION, ACTION, (3, 5), TASKS)
    if name == "stl":
        return SingleTaskSAC(*sizes, identity=TASKS)
    return SAC(*sizes, LS(), LS(), identity=TASKS)


def without_normalization(agent, name):
    """An agent of the same parameters that takes observations as they are."""
    config = small_config(name)
    sizes = (config, OBSERVATION, ACTION, (3, 5), TASKS)
    plain = SingleTaskSAC(*sizes) if name == "stl" else SAC(*sizes, LS(), LS())
    state = agent.state()
    plain.load_state({key: v for key, v in state.items() if not key.startswith("observations/")})
    return plain


@pytest.mark.parametrize("name", ["mtsac", "mtsac_te", "mhsac", "stl"])
def test_acting_copying_and_exporting_normalise(name):
    agent, given = agent_of(name), observations(20)
    plain = without_normalization(agent, name)
    for step in given[:10]:
        agent.observe(step)
    one = given[11, :, 0]
    expected = plain.act(agent.normalized(one))
    assert not torch.allclose(plain.act(one), expected)
    assert torch.equal(agent.act(one), expected)
    policy = agent.policy()
    modules = agent.policy_modules()
    for step in given[10:]:
        agent.observe(step)
    assert not torch.equal(agent.act(one), expected)
    of_copy = agent.policy_modules(policy)
    for s, module in enumerate(modules):
        inputs = (one[s], torch.arange(TASKS))[: 1 + module.needs_tasks]
        torch.testing.assert_close(module(*inputs), expected[s], rtol=0, atol=1e-5)
        assert torch.equal(of_copy[s](*inputs), module(*inputs)), "statistics of that time"


@pytest.mark.parametrize("name", ["mtsac", "stl"])
def test_statistics_are_over_all_tasks_except_for_independent_agents(name):
    agent, given = agent_of(name), observations(10)
    given[:, :, :, 0, :ENTRIES] += 10
    for step in given:
        agent.observe(step)
    shifted = agent.normalized(given[0, :, 0])[:, 0, 0]
    assert (shifted.abs() < 5).all() == (name == "stl") or (shifted > 1).all()
    lanes = getattr(agent, "lanes", agent)
    assert lanes.observations.parameters["mean"].shape[0] == (6 if name == "stl" else 2)


@pytest.mark.parametrize("name", ["mtsac", "stl"])
def test_statistics_are_part_of_the_agents_state(name):
    agent, restored, given = agent_of(name), agent_of(name), observations(10)
    for step in given:
        agent.observe(step)
    restored.load_state({key: value.clone() for key, value in agent.state().items()})
    one = given[0, :, 0]
    assert torch.equal(agent.act(one), restored.act(one))
    with pytest.raises(ValueError, match="configuration"):
        restored.load_state(without_normalization(agent, name).state())
