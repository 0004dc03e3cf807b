"""Single-task agents that train together are what they would be alone."""

import math

import pytest
import torch

from mtrl_fairgrad import LS
from mtrl_fairgrad.agents import SAC, SeedStreams, SingleTaskSAC
from tests.unit.agents.conftest import (
    ACTION,
    DIMENSIONS,
    OBSERVATION,
    TASKS,
    draw_update,
    first_faults,
    small_config,
)

SEEDS = (3, 11)
CONFIG = small_config(max_gradient_norm=0.3)


def together(seeds=SEEDS):
    return SingleTaskSAC(CONFIG, *DIMENSIONS, seeds, TASKS, dtype=torch.float64)


def alone(seed):
    return SAC(CONFIG, *DIMENSIONS, (seed,), 1, LS(), LS(), dtype=torch.float64)


def of_one(values, s, k):
    """The part `[1, 1, ...]` of one task of one seed, as in a run of this seed on this task."""
    return type(values)(
        *(None if value is None else value[s : s + 1, k : k + 1] for value in values)
    )


def parameters(agent):
    return {
        **agent.actor.shared,
        **agent.critics.shared,
        **agent.temperature.own,
        **agent.target_critics,
    }


def assert_lanes_equal(agent, apart, tolerance):
    for lane, one in enumerate(apart):
        for name, value in parameters(agent.lanes).items():
            torch.testing.assert_close(
                value[lane], parameters(one)[name][0], rtol=tolerance, atol=tolerance, msg=name
            )


def test_every_agent_trains_as_it_would_alone():
    agent, streams = together(), SeedStreams(SEEDS)
    apart = [alone(seed) for seed in SEEDS for _ in range(TASKS)]
    assert_lanes_equal(agent, apart, tolerance=0.0)
    for _ in range(3):
        batch, noise = draw_update(streams)
        result = agent.update(batch, noise).metrics()
        for lane, one in enumerate(apart):
            s, k = divmod(lane, TASKS)
            expected = one.update(of_one(batch, s, k), of_one(noise, s, k)).metrics()
            assert result.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(
                    result[name][s, k], value.reshape(()), rtol=1e-6, atol=1e-6, msg=name
                )
        assert_lanes_equal(agent, apart, tolerance=1e-6)
    norms = result["critic/gradient_norm"]
    assert norms.shape == (2, TASKS) and (norms > 0.3).any(), "some gradients must be clipped"


def test_tasks_start_from_equal_networks_and_diverge():
    agent = together()
    weights = agent.lanes.actor.shared["weight0"]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[TASKS])
    agent.update(*draw_update(SeedStreams(SEEDS)))
    assert not torch.equal(weights[0], weights[1])


def test_one_tasks_batch_does_not_change_the_others():
    batch, noise = draw_update(SeedStreams(SEEDS))
    changed = batch._replace(rewards=batch.rewards.clone())
    changed.rewards[1, 2] += 1
    one, other = together(), together()
    one.update(batch, noise)
    other.update(changed, noise)
    for name, value in one.state().items():
        if value.ndim and value.shape[0] == 2 * TASKS:
            differs = {
                lane
                for lane in range(2 * TASKS)
                if not torch.equal(value[lane], other.state()[name][lane])
            }
            assert differs <= {5}, name
    assert not torch.equal(
        one.lanes.critics.shared["first.weight0"][5], other.lanes.critics.shared["first.weight0"][5]
    )


def test_acting_uses_each_tasks_own_actor():
    agent, streams = together(), SeedStreams(SEEDS)
    agent.update(*draw_update(streams))
    observations, noise = (
        streams.normal(TASKS, OBSERVATION).double(),
        streams.normal(TASKS, ACTION).double(),
    )
    for drawn in (None, noise):
        result = agent.act(observations, drawn)
        assert result.shape == (2, TASKS, ACTION)
        for s in range(2):
            for k in range(TASKS):
                changed = observations.clone()
                changed[s, k] += 1
                moved = (agent.act(changed, drawn) != result).any(-1).nonzero().tolist()
                assert moved == [[s, k]]


def test_gramians_of_tasks_that_share_nothing_are_diagonal():
    agent = together()
    batch, noise = draw_update(SeedStreams(SEEDS))
    result = agent.conflicts(batch, noise)["critic/gramian"]
    norms = agent.update(batch, noise).critic.gradient_norm
    torch.testing.assert_close(result, torch.diag_embed(norms.square()))


def test_a_fault_of_one_task_does_not_affect_the_others():
    agent, streams = together(), SeedStreams(SEEDS)
    batch, noise = draw_update(streams)
    batch.rewards[1, 2, 0] = math.nan
    agent.update(batch, noise)
    expected = torch.full((2, TASKS), -1)
    expected[1, 2] = 0
    assert torch.equal(first_faults(agent), expected) and agent.updates == 1


def test_restored_agents_continue_bit_for_bit():
    agent, streams = together(), SeedStreams(SEEDS)
    agent.update(*draw_update(streams))
    restored = together((8, 9))
    restored.load_state({name: value.clone() for name, value in agent.state().items()})
    batch, noise = draw_update(streams)
    for one in (agent, restored):
        one.update(batch, noise)
    assert all(torch.equal(value, restored.state()[name]) for name, value in agent.state().items())
    with pytest.raises(ValueError, match="configuration the run was started with"):
        together((1,)).load_state(agent.state())


def test_its_methods_draw_no_random_numbers():
    agent = together()
    generators = SeedStreams(SEEDS).generators
    assert (
        agent.critic_method.draw(generators) is None and agent.actor_method.draw(generators) is None
    )
