"""A copied policy and the module of one seed act as the agent does, for every architecture."""

import pytest
import torch

from mtrl_fairgrad import LS
from mtrl_fairgrad.agents import SAC, PolicyModule, SeedPolicies, SingleTaskSAC
from tests.unit.agents.conftest import (
    DIMENSIONS,
    OBSERVATION,
    TASKS,
    make_agent,
    small_config,
    train,
)

SEEDS = (3, 5)


def single_tasks():
    return SingleTaskSAC(small_config(), *DIMENSIONS, SEEDS, TASKS, dtype=torch.float64)


def together(architecture):
    config = small_config(architecture)
    return SAC(config, *DIMENSIONS, SEEDS, TASKS, LS(), LS(), dtype=torch.float64)


AGENTS = {
    "mtsac": (lambda: make_agent(SEEDS), False),
    "mhsac": (lambda: together("mhsac"), True),
    "mtsac_te": (lambda: together("mtsac_te"), True),
    "stl": (single_tasks, True),
}


@pytest.mark.parametrize("name", AGENTS)
def test_a_copied_policy_acts_as_the_agent_did(name):
    agent, observations = (
        AGENTS[name][0](),
        torch.randn(len(SEEDS), TASKS, OBSERVATION, dtype=torch.float64),
    )
    train(agent, SEEDS, updates=2)
    expected, policy = agent.act(observations), agent.policy()
    train(agent, SEEDS, updates=2)
    agent.reset(1)
    assert not torch.allclose(agent.act(observations), expected)
    found = SeedPolicies(module.act for module in agent.policy_modules(policy))(observations)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (name == "mtsac_te") == any(".critics." in key for key in policy), (
        "only the task encoder is the critics'"
    )


@pytest.mark.parametrize(("make", "needs_tasks"), AGENTS.values(), ids=AGENTS)
def test_the_module_of_each_seed_acts_like_the_agent(make, needs_tasks):
    agent = make()
    train(agent, SEEDS, updates=3)
    observations = torch.randn(len(SEEDS), TASKS, OBSERVATION, dtype=torch.float64)
    expected = agent.act(observations)
    for s in range(len(SEEDS)):
        module = agent.policy_modules()[s]
        assert module.needs_tasks is needs_tasks
        actions = module(*(observations[s], torch.arange(TASKS))[: 1 + needs_tasks])
        torch.testing.assert_close(actions, expected[s], rtol=0, atol=1e-12)
    assert not torch.allclose(expected[0], expected[1]), "seeds differ"


def test_rows_may_belong_to_tasks_in_any_order_and_number():
    agent = single_tasks()
    train(agent, SEEDS, updates=3)
    observations = torch.randn(5, OBSERVATION, dtype=torch.float64)
    tasks = torch.tensor([2, 0, 0, 1, 2])
    result = agent.policy_modules()[1](observations, tasks)
    for row, task in enumerate(tasks.tolist()):
        asked = torch.zeros(len(SEEDS), TASKS, OBSERVATION, dtype=torch.float64)
        asked[1, task] = observations[row]
        torch.testing.assert_close(result[row], agent.act(asked)[1, task], rtol=0, atol=1e-12)


def test_the_policy_uses_shared_and_own_parameters():
    """A shared trunk and a head for each task: 2·x·(head of the task)."""
    shared, own = {"trunk.weight": torch.tensor(2.0)}, {"head": torch.tensor([1.0, 10.0, 100.0])}
    module = PolicyModule(
        lambda shared, own, x: shared["trunk.weight"] * x * own["head"], shared, own
    )
    result = module(torch.tensor([[1.0], [1.0], [3.0]]), torch.tensor([2, 0, 1]))
    assert result.tolist() == [[200.0], [2.0], [60.0]]


@pytest.mark.parametrize("task", [-1, TASKS])
def test_a_task_out_of_range_is_refused(task):
    module = single_tasks().policy_modules()[0]
    with pytest.raises(IndexError, match="out of range"):
        module(torch.zeros(1, OBSERVATION, dtype=torch.float64), torch.tensor([task]))


def test_training_does_not_change_the_module():
    agent = make_agent(SEEDS)
    module = agent.policy_modules()[0]
    observations = torch.randn(4, OBSERVATION, dtype=torch.float64)
    before = module(observations)
    train(agent, SEEDS, updates=2)
    assert torch.equal(module(observations), before)
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("name", ["mtsac", "mhsac", "mtsac_te"])
def test_residual_networks_are_exported_for_any_number_of_rows(name):
    config = small_config(name, network="bronet", depth=1)
    agent = SAC(config, *DIMENSIONS, SEEDS, TASKS, LS(), LS(), dtype=torch.float64)
    module = agent.policy_modules()[0]
    rows, count = torch.export.Dim("rows", min=1), 1 + module.needs_tasks
    example = (torch.zeros(2, OBSERVATION).double(), torch.zeros(2, dtype=torch.int64))[:count]
    with torch.no_grad():
        exported = torch.export.export(module, example, dynamic_shapes=({0: rows},) * count)
        program = exported.run_decompositions({}).module()
    tasks = torch.tensor([0, 1, 2, 2, 1, 0, 1])
    given = (torch.randn(7, OBSERVATION).double(), tasks)[:count]
    torch.testing.assert_close(program(*given), module(*given), rtol=1e-12, atol=1e-13)
