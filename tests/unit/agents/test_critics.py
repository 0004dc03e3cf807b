"""Kinds of critics: the distribution of returns on atoms, and how the twins are combined."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from mtrl_fairgrad import make_method
from mtrl_fairgrad.agents import SAC, SeedStreams, SingleTaskSAC, networks
from mtrl_fairgrad.agents.critics import (
    CategoricalCritic,
    SquaredCritic,
    atoms_of,
    make_critic,
    project,
)
from mtrl_fairgrad.config.guard import CHECKS, GuardConfig
from tests.support.sac_equations import Problem
from tests.unit.agents.conftest import (
    DIMENSIONS,
    TASKS,
    draw_update,
    first_faults,
    learn,
    small_config,
)

ATOMS, V_MAX = 11, 5.0
"""Atoms at −5, −4, …, 5."""
CATEGORICAL = {"critic": "categorical", "atoms": ATOMS, "v_max": V_MAX}
BOTH = pytest.mark.parametrize("dense", [False, True], ids=["scattered", "dense"])


def distributions(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=dtype).mul(2).softmax(-1)


def projected_by_hand(probabilities, shift, scale, v_max):
    """One distribution, atom by atom, with the rules of the paper's Algorithm 1."""
    count = len(probabilities)
    spacing = 2 * v_max / (count - 1)
    result = [0.0] * count
    for index, probability in enumerate(probabilities.tolist()):
        value = min(max(shift + scale * (-v_max + index * spacing), -v_max), v_max)
        place = (value + v_max) / spacing
        low = min(int(place), count - 2)
        result[low] += probability * (low + 1 - place)
        result[low + 1] += probability * (place - low)
    return torch.tensor(result, dtype=probabilities.dtype)


# ---- the projection ----


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_projection_is_that_of_one_atom_after_the_other(dense, dtype):
    cases = list(
        itertools.product((-30.0, -5.0, -1.25, 0.0, 1.0, 3.3, 5.0, 30.0), (0.0, 0.5, 0.97, 1.0))
    )
    shifts, scales = (torch.tensor(column, dtype=dtype) for column in zip(*cases, strict=True))
    given = distributions(len(cases), ATOMS, dtype=dtype)
    expected = torch.stack(
        [
            projected_by_hand(row, *case, V_MAX)
            for row, case in zip(given.double(), cases, strict=True)
        ]
    )
    found = project(given, shifts, scales, V_MAX, dense)
    assert found.dtype == dtype
    tolerance = 1e-14 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(len(cases), dtype=dtype))


@BOTH
def test_a_shift_by_whole_atoms_moves_the_distribution_and_one_by_half_shares_it(dense):
    given = F.one_hot(torch.tensor([3, 9, 0]), ATOMS).double()

    def moved(shift, scale=1.0):
        return project(given, *torch.tensor([[shift] * 3, [scale] * 3]).double(), V_MAX, dense)

    assert torch.equal(moved(0.0), given)
    assert torch.equal(moved(2.0), F.one_hot(torch.tensor([5, 10, 2]), ATOMS).double())
    assert moved(0.5)[0, 3:5].tolist() == [0.5, 0.5]
    ended = moved(-1.75, scale=0.0)  # whatever the distribution was
    expected = torch.zeros(3, ATOMS).double()
    expected[:, 3], expected[:, 4] = 0.75, 0.25
    assert torch.equal(ended, expected)


@BOTH
def test_inside_the_range_the_expectation_is_kept(dense):
    given = distributions(64, ATOMS)
    shifts, scales = torch.linspace(-2, 2, 64).double(), torch.linspace(0, 0.6, 64).double()
    found = project(given, shifts, scales, V_MAX, dense)
    atoms = atoms_of(given, V_MAX)
    torch.testing.assert_close(found @ atoms, shifts + scales * (given @ atoms))


@BOTH
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_shift_that_is_not_finite_gives_nan_in_its_row_alone(dense, bad):
    given = distributions(2, ATOMS)
    found = project(given, torch.tensor([bad, 1.0]), torch.tensor([0.9, 0.9]), V_MAX, dense)
    assert found[0].isnan().any()
    assert found[1].isfinite().all()


@BOTH
def test_the_projection_is_lifted_over_tasks_and_seeds(dense):
    given = distributions(2, 3, 4, ATOMS)
    shifts, scales = torch.randn(2, 3, 4).double(), torch.rand(2, 3, 4).double()

    def one(*arguments):
        return project(*arguments, V_MAX, dense)

    lifted = torch.func.vmap(torch.func.vmap(one))(given, shifts, scales)
    torch.testing.assert_close(lifted, one(given, shifts, scales), rtol=0, atol=1e-15)


# ---- the loss ----


def test_the_gradient_of_the_cross_entropy_is_probabilities_minus_targets():
    critic = CategoricalCritic("mean", ATOMS, V_MAX)
    outputs = torch.randn(2, 6, ATOMS, dtype=torch.float64, requires_grad=True)
    targets = distributions(6, ATOMS)
    errors, values = critic.errors(outputs, targets)
    assert errors.shape == values.shape == (2, 6)
    [gradient] = torch.autograd.grad(errors.sum(), outputs)
    torch.testing.assert_close(gradient, outputs.softmax(-1) - targets)
    least = critic.errors(targets.log().expand(2, -1, -1), targets)[0]
    entropy = -(targets * targets.log()).sum(-1)
    torch.testing.assert_close(least, entropy.expand(2, -1))
    assert (errors > entropy).all()
    torch.testing.assert_close(values, outputs.softmax(-1) @ atoms_of(targets, V_MAX))
    torch.testing.assert_close(values, critic.values(outputs))


# ---- the twins ----


def outputs_with_values(*values):
    """Outputs of a categorical critic whose distributions are nearly on one atom each."""
    return 50 * F.one_hot(torch.tensor(values) + 5, ATOMS).double()


@pytest.mark.parametrize("at_once", [False, True])
def test_categorical_targets_take_the_twin_of_smaller_mean_or_the_mixture(at_once):
    outputs = outputs_with_values([-1, 3], [2, -2])  # [2, B, n]
    data = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0])
    smaller = CategoricalCritic("min", ATOMS, V_MAX).targets(outputs, *data, at_once)
    mixture = CategoricalCritic("mean", ATOMS, V_MAX).targets(outputs, *data, at_once)
    # Moved by 1 − 0.5: half of the probability on each neighbour.
    expected = torch.zeros(2, ATOMS).double()
    expected[0, 4:6] = expected[1, 3:5] = 0.5
    torch.testing.assert_close(smaller, expected, rtol=0, atol=1e-12)
    other = torch.zeros(2, ATOMS).double()
    other[0, 7:9] = other[1, 8:10] = 0.5
    torch.testing.assert_close(mixture, (expected + other) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("target", ["min", "mean"])
def test_the_actor_sees_the_twins_as_the_targets_do(target):
    outputs = outputs_with_values([-1, 3], [2, -2])
    wanted = {"min": [-1.0, -2.0], "mean": [0.5, 0.5]}[target]
    found = CategoricalCritic(target, ATOMS, V_MAX).value(outputs)
    torch.testing.assert_close(found, torch.tensor(wanted).double())
    values = torch.tensor([[-1.0, 3.0], [2.0, -2.0]]).unsqueeze(-1)
    assert SquaredCritic(target).value(values).tolist() == wanted


@pytest.mark.parametrize("target", ["min", "mean"])
def test_the_expectation_of_categorical_targets_is_the_squared_critics_target(target):
    categorical = CategoricalCritic(target, 101, 10.0)
    outputs = torch.randn(2, 8, 101, dtype=torch.float64)
    outputs = outputs - 3 * atoms_of(outputs, 10.0).square()  # far from the ends of the range
    data = torch.randn(8).double(), torch.randn(8).double(), torch.rand(8).double()
    found = categorical.targets(outputs, *data, False) @ atoms_of(outputs, 10.0)
    values = categorical.values(outputs).unsqueeze(-1)
    torch.testing.assert_close(found, SquaredCritic(target).targets(values, *data, False))


# ---- in the agent ----

RECIPE = {**CATEGORICAL, "network": "bronet", "target": "mean", "critic_width": 20}


def agent_of(name="mtsac", seeds=(0,), method="fairgrad", guard=None, **changes):
    config = small_config(name, **{**RECIPE, **changes})
    if name == "stl":
        return SingleTaskSAC(config, *DIMENSIONS, seeds, TASKS, dtype=torch.float64, guard=guard)
    methods = [make_method(method) for _ in range(2)]
    return SAC(config, *DIMENSIONS, seeds, TASKS, *methods, dtype=torch.float64, guard=guard)


@pytest.mark.parametrize("target", ["min", "mean"])
@pytest.mark.parametrize("discounts", [None, 0.5])
def test_the_agents_targets_are_those_of_its_equations_written_out(target, discounts):
    problem = Problem(**{**RECIPE, "target": target})
    losses, critics = problem.losses, {n: v[0] for n, v in problem.targets.shared.items()}
    actor = {name: value[0] for name, value in problem.actor.shared.items()}
    observations, noise = torch.randn(4, 6).double(), torch.randn(4, 2).double()
    rewards, ended = torch.randn(4).double(), torch.tensor([0.0, 1.0, 0.0, 0.0]).double()
    factor = () if discounts is None else (torch.full((4,), discounts).double(),)
    networks_ = (actor, {}, critics), ({}, {}, {})
    data = noise, torch.tensor(0.3, dtype=torch.float64), rewards, ended, *factor
    found = losses.bellman_targets(*networks_, observations, *data)
    actions, density = networks.sample(actor, observations, noise, losses.log_std)
    both = networks.critic_outputs(critics, observations, actions).softmax(-1)
    atoms = torch.linspace(-V_MAX, V_MAX, ATOMS).double()
    for row in range(4):
        first, second = both[:, row]
        chosen = (first + second) / 2
        if target == "min":
            chosen = first if first @ atoms < second @ atoms else second
        scale = (discounts or losses.discount) * (1 - ended[row].item())
        shift = rewards[row].item() - scale * 0.3 * density[row].item()
        expected = projected_by_hand(chosen, shift, scale, V_MAX)
        torch.testing.assert_close(found[row], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["mtsac", "mtsac_te", "mhsac", "stl"])
def test_every_architecture_learns_known_values_by_cross_entropy(name):
    agent = agent_of(name, method="ls", learning_rate=2e-2, depth=1)
    streams = SeedStreams((0,))
    rewards = torch.tensor([-3.3, 0.0, 2.5]).double().view(1, TASKS, 1)
    for _ in range(40):
        batch, noise = draw_update(streams)
        batch.observations[..., :TASKS] = torch.eye(TASKS).double().unsqueeze(1)
        info = agent.update(
            batch._replace(
                rewards=rewards.expand_as(batch.rewards),
                terminated=torch.ones_like(batch.terminated),
            ),
            noise,
        )
    assert (info.value - rewards.squeeze(-1)).abs().max() < 0.3
    assert (first_faults(agent) == -1).all()
    assert (info.critic.losses > 0).all()


def test_the_logged_value_and_the_guard_see_the_mean_of_both_twins_expectations():
    agent = agent_of(guard=GuardConfig(largest_value=4.0), max_gradient_norm=1e-9)
    agent.critics.shared["first.bias1"][0, -1] = 40.0  # the first twin is sure of the largest atom
    critics = {name: value[0].clone() for name, value in agent.critics.shared.items()}
    batch, noise = draw_update(SeedStreams((0,)))
    info = agent.update(batch, noise)
    for k in range(TASKS):
        outputs = networks.critic_outputs(critics, batch.observations[0, k], batch.actions[0, k])
        expected = (outputs.softmax(-1) * torch.linspace(-5, 5, ATOMS).double()).sum(-1).mean()
        torch.testing.assert_close(info.value[0, k], expected)
    assert torch.equal(info.metrics()["critic/value"], info.value)
    exploding = CHECKS.index(("critic", "exploding_value"))
    assert (agent.faults().counts[exploding] == 0).all()  # 2.5 on average
    agent.critics.shared["second.bias1"][0, -1] = 40.0
    agent.update(batch, noise)
    assert (agent.faults().counts[exploding] == 1).all()


def test_a_reward_that_is_not_finite_is_a_fault():
    batch, noise = draw_update(SeedStreams((0,)))
    for bad in (torch.nan, torch.inf):
        agent = agent_of()
        rewards = batch.rewards.clone()
        rewards[0, 1, 3] = bad
        agent.update(batch._replace(rewards=rewards), noise)
        assert agent.faults().stopped.all()
        assert (first_faults(agent)[0] == torch.tensor([-1, 0, -1])).all()


@pytest.mark.parametrize("name", ["mtsac_te", "mhsac"])
def test_a_seed_trains_with_others_as_it_does_alone(name):
    together = agent_of(name, (3, 4))
    learn(together, SeedStreams((3, 4)), 5)
    alone = agent_of(name, (4,))
    learn(alone, SeedStreams((4,)), 5)
    for part in ("actor", "critics"):
        for group in ("shared", "own"):
            for key, value in getattr(getattr(alone, part), group).items():
                stacked = getattr(getattr(together, part), group)[key]
                torch.testing.assert_close(stacked[1], value[0], rtol=1e-9, atol=1e-11, msg=key)


@pytest.mark.parametrize("method", ["ls", "pcgrad", "moco"])
def test_methods_of_every_kind_train_it(method):
    agent = agent_of("mhsac", (0, 1), method)
    before = {name: value.clone() for name, value in agent.critics.shared.items()}
    metrics = learn(agent, SeedStreams((0, 1)), 1)
    assert all(value.isfinite().all() for value in metrics.values())
    assert (first_faults(agent) == -1).all()
    assert not any(torch.equal(value, before[n]) for n, value in agent.critics.shared.items())


def test_the_options_choose_the_critic():
    assert make_critic(small_config()) == SquaredCritic("min")
    assert make_critic(small_config(**RECIPE)) == CategoricalCritic("mean", ATOMS, V_MAX)
    assert make_critic(small_config(critic="categorical")).outputs == 101
    agent = agent_of()
    assert agent.critics.shared["second.weight1"].shape == (1, ATOMS, 20)
    start = agent.losses.critic.values(
        networks.critic_outputs(
            {name: value[0] for name, value in agent.critics.shared.items()},
            torch.randn(5, 6).double(),
            torch.rand(5, 2).double(),
        )
    )
    assert start.abs().max() < 0.3  # near zero, as with one output
