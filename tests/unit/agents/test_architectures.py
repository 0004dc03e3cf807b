"""Architectures: sizes, gradients of shared and own parameters, seeds, methods, checkpoints."""

from functools import partial

import pytest
import torch

from mtrl_fairgrad import LS, make_method, method_names
from mtrl_fairgrad.agents import SAC, Batch, SeedStreams, networks
from mtrl_fairgrad.agents.networks import init_actor, init_critics
from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.gradients.conventions import CONVENTIONS, PLAIN
from tests.unit.agents.conftest import (
    ACTION,
    BATCH,
    DIMENSIONS,
    OBSERVATION,
    TASKS,
    draw_update,
    first_faults,
    learn,
    small_config,
)

TOGETHER = ("mtsac", "mtsac_te", "mhsac")
METHODS = [name for name in method_names() if name != "stl"]
EVERYTHING = {
    "critic_width": 20,
    "critic_layer_norm": True,
    "initialization": "xavier",
    "log_std": "tanh",
}
SEEDS = (3, 11)


def agent_of(name, seeds=(0,), method="ls", convention=PLAIN, options=None, **changes):
    critic, actor = (make_method(method, **(options or {})) for _ in range(2))
    actor = LS() if actor.needs_positive_losses else actor
    return SAC(
        small_config(name, **changes),
        *DIMENSIONS,
        seeds,
        TASKS,
        critic,
        actor,
        dtype=torch.float64,
        convention=convention,
    )


def copied(state):
    return {name: value.clone() for name, value in state.items()}


def moved(agent, before):
    return {
        name
        for name, value in agent.state().items()
        if name in before and not torch.equal(value, before[name])
    }


# ---- sizes ----


def count(group):
    return sum(value.numel() for value in group.values())


def counts(name, observation_dim, tasks=10):
    sizes = AgentConfig(name), observation_dim, 4, tasks
    made = [init(*sizes, torch.Generator().manual_seed(0)) for init in (init_actor, init_critics)]
    return [(count(one.shared), count(one.own)) for one in made]


def test_mtsac_has_the_papers_sizes():
    assert counts("mtsac", 12) == counts("stl", 12) == [(329_208, 0), (656_002, 0)]
    assert counts("mtsac", 39) == [(340_008, 0), (677_602, 0)]


def test_mhsac_has_a_trunk_of_four_layers_and_heads_of_two():
    trunk = 12 * 400 + 400 + 3 * (400 * 400 + 400)
    head = 400 * 400 + 400
    assert counts("mhsac", 12)[0] == (trunk, 10 * (head + 400 * 8 + 8))
    assert counts("mhsac", 12)[1] == (2 * (trunk + 4 * 400), 10 * 2 * (head + 400 + 1))


def test_mtsac_te_adds_fifty_inputs_and_the_critics_encoder():
    assert counts("mtsac_te", 12)[0] == (329_208 + 50 * 400, 0)
    assert counts("mtsac_te", 12)[1] == (656_002 + 2 * 50 * 400 + 3 * (50 * 50 + 50), 10 * 50)


# ---- gradients ----


def of(group, *place):
    return {name: value[place].clone() for name, value in group.items()}


def critic_gradients_by_hand(agent, batch, targets, s, k):
    """Gradients of one task's critic loss by plain autograd: of shared and of own parameters."""
    leaves = [of(agent.critics.shared, s), of(agent.critics.own, s, k)]
    for value in (value for group in leaves for value in group.values()):
        value.requires_grad_()
    parameters = {**leaves[0], **leaves[1]}
    obs = batch.observations[s, k]
    if "embedding" in parameters:
        hidden = parameters["embedding"].relu()
        for layer in range(3):
            hidden = (
                hidden @ parameters[f"encoder.weight{layer}"].T + parameters[f"encoder.bias{layer}"]
            )
            hidden = hidden.relu() if layer < 2 else hidden
        obs = torch.cat([obs, hidden.expand(BATCH, -1)], -1)
    inputs, loss = torch.cat([obs, batch.actions[s, k]], -1), 0.0
    for twin in ("first", "second"):
        hidden, layers = inputs, sum(name.startswith(f"{twin}.weight") for name in parameters)
        for layer in range(layers):
            hidden = (
                hidden @ parameters[f"{twin}.weight{layer}"].T + parameters[f"{twin}.bias{layer}"]
            )
            hidden = hidden.relu() if layer < layers - 1 else hidden
        loss = loss + (hidden.squeeze(-1) - targets[s, k]).square().mean() / 2
    gradients = iter(torch.autograd.grad(loss, list(parameters.values())))
    return [{name: next(gradients) for name in group} for group in leaves]


def actor_gradients_by_hand(agent, batch, noise, temperature, s, k):
    actor = {**of(agent.actor.shared, s), **of(agent.actor.own, s, k)}
    for value in actor.values():
        value.requires_grad_()
    critics = {**of(agent.critics.shared, s), **of(agent.critics.own, s, k)}
    seen = networks.with_encoding(critics, batch.observations[s, k])
    actions, log_density = networks.sample(actor, seen, noise.actions[s, k], agent.losses.log_std)
    first, second = networks.critic_outputs(critics, seen, actions).squeeze(-1)
    loss = (temperature[s, k] * log_density - torch.minimum(first, second)).mean()
    return dict(zip(actor, torch.autograd.grad(loss, list(actor.values())), strict=True))


class Caught:
    """Record the gradients that the optimisers receive."""

    def __init__(self, agent):
        self.shared, self.own = {}, {}
        for name in ("actor", "critics"):
            learned = getattr(agent, name)
            learned.step = partial(self.keep, name)

    def keep(self, name, shared, own, skip):
        self.shared[name], self.own[name] = shared, own


@pytest.mark.parametrize("method", ["ls", "fairgrad", "moco"])
@pytest.mark.parametrize("name", ["mhsac", "mtsac_te"])
def test_own_parameters_receive_exactly_their_own_tasks_gradient(name, method):
    agent = agent_of(name, SEEDS, method, max_gradient_norm=None, own_gradients="plain")
    learn(agent, SeedStreams(SEEDS), 3)
    batch, noise = draw_update(SeedStreams((5, 6)))
    temperature = agent.log_temperature.exp()
    targets = agent.bellman_targets(batch, noise, temperature)
    caught = Caught(agent)
    agent.update(batch, noise)
    assert set(caught.own["critics"]) == set(agent.critics.own) and caught.own["critics"]
    assert bool(caught.own["actor"]) == (name == "mhsac")
    for s in range(len(SEEDS)):
        for k in range(TASKS):
            _, expected = critic_gradients_by_hand(agent, batch, targets, s, k)
            for key, value in caught.own["critics"].items():
                torch.testing.assert_close(
                    value[s, k], expected[key], rtol=1e-10, atol=1e-13, msg=key
                )
            expected = actor_gradients_by_hand(agent, batch, noise, temperature, s, k)
            for key, value in caught.own["actor"].items():
                torch.testing.assert_close(
                    value[s, k], expected[key], rtol=1e-10, atol=1e-13, msg=key
                )


@pytest.mark.parametrize("name", ["mhsac", "mtsac_te"])
def test_shared_parameters_receive_the_combination_of_the_tasks_gradients(name):
    agent = agent_of(name, method="ls", options={"reduction": "mean"}, max_gradient_norm=None)
    batch, noise = draw_update(SeedStreams((5,)))
    targets = agent.bellman_targets(batch, noise, agent.log_temperature.exp())
    caught = Caught(agent)
    agent.update(batch, noise)
    rows = [critic_gradients_by_hand(agent, batch, targets, 0, k)[0] for k in range(TASKS)]
    for key, value in caught.shared["critics"].items():
        torch.testing.assert_close(
            value[0], sum(row[key] for row in rows) / TASKS, rtol=1e-9, atol=1e-12, msg=key
        )
    assert name != "mtsac_te" or "encoder.weight0" in caught.shared["critics"]


def test_only_the_shared_parameters_are_combined():
    agent = agent_of("mhsac", method="fairgrad", options={"solver": "newton"})
    result = agent.conflicts(*draw_update(SeedStreams((5,))))["critic/gramian"]
    rows = [critic_gradients_by_hand(agent, *hand_problem(agent), 0, k)[0] for k in range(TASKS)]
    flat = torch.stack([torch.cat([g.flatten() for g in row.values()]) for row in rows])
    torch.testing.assert_close(result[0], flat @ flat.T)


def hand_problem(agent):
    batch, noise = draw_update(SeedStreams((5,)))
    return batch, agent.bellman_targets(batch, noise, agent.log_temperature.exp())


def test_a_head_is_trained_by_its_own_task_only():
    """Before clipping, another task's batch changes the trunk but not this task's head."""
    batch, noise = draw_update(SeedStreams((5,)))
    other = batch._replace(rewards=batch.rewards + torch.tensor([0.0, 0.0, 9.0]).view(1, TASKS, 1))
    heads = []
    for data in (batch, other):
        agent = agent_of("mhsac", max_gradient_norm=None)
        agent.update(data, noise)
        heads.append(agent.critics)
    for key, value in heads[0].own.items():
        same = [torch.equal(value[0, k], heads[1].own[key][0, k]) for k in range(TASKS)]
        assert same == [True, True, False], key
    assert not torch.equal(heads[0].shared["first.weight0"], heads[1].shared["first.weight0"])


def test_the_encoder_is_not_trained_by_the_actor():
    batch, noise = draw_update(SeedStreams((5,)))
    agents = [agent_of("mtsac_te") for _ in range(2)]
    agents[0].update(batch, noise)
    agents[1].update(
        batch, noise._replace(actions=noise.actions + 1)
    )  # used by the actor's loss only
    actors, critics = (
        [agent.actor.shared for agent in agents],
        [agent.critics.state() for agent in agents],
    )
    assert not torch.equal(actors[0]["weight0"], actors[1]["weight0"])
    assert all(torch.equal(value, critics[1][name]) for name, value in critics[0].items())
    assert not any("encoder" in name or "embedding" in name for name in agents[0].actor.state())


def test_the_encoder_is_trained_by_the_critics_and_used_by_the_actor():
    agent = agent_of("mtsac_te", learning_rate=1e-2)
    before, streams = copied(agent.state()), SeedStreams((5,))
    observations = streams.normal(1, OBSERVATION).double().expand(1, TASKS, OBSERVATION)
    assert not torch.equal(*agent.act(observations)[0, :2]), (
        "the same observation, but another task"
    )
    learn(agent, streams, 1)
    changed = moved(agent, before)
    assert {
        "critics/own.embedding",
        "critics/shared.encoder.weight0",
        "targets/embedding",
    } <= changed
    acted = agent.act(observations)
    agent.critics.own["embedding"][0, 1] += 1
    assert (agent.act(observations) != acted).any(-1).tolist() == [[False, True, False]]


@pytest.mark.parametrize("name", TOGETHER)
def test_targets_follow_every_parameter_of_the_critics(name):
    agent = agent_of(name, polyak=0.25)
    before = copied(agent.state())
    learn(agent, SeedStreams((5,)), 1)
    for group in ("shared", "own"):
        for key, value in getattr(agent.critics, group).items():
            target = agent.state()[f"targets/{key}"]
            torch.testing.assert_close(
                target, 0.75 * before[f"targets/{key}"] + 0.25 * value, msg=key
            )


def test_weighted_heads_are_a_convention():
    plain, weighted = (
        agent_of("mhsac", max_gradient_norm=None, own_gradients="plain", convention=c)
        for c in (PLAIN, CONVENTIONS["libmtl"])
    )
    batch, noise = draw_update(SeedStreams((5,)))
    gradients = [Caught(agent) for agent in (plain, weighted)]
    plain.critic_method.reduction = weighted.critic_method.reduction = "mean"
    for agent in (plain, weighted):
        agent.update(batch, noise)
    for key, value in gradients[0].own["critics"].items():
        torch.testing.assert_close(gradients[1].own["critics"][key], value / TASKS)


# ---- seeds, methods, checkpoints ----


@pytest.mark.parametrize(
    "network",
    [
        pytest.param({}, id="plain"),
        pytest.param(EVERYTHING, id="everything", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("name", ["mtsac_te", "mhsac"])
def test_a_seed_trains_with_others_as_it_does_alone(name, network):
    settings = {
        "method": "fairgrad",
        **network,
        "temperature": "shared",
        "max_gradient_norm": 0.05,
    }
    together = agent_of(name, SEEDS, **settings)
    learn(together, SeedStreams(SEEDS), 10)
    stacked = together.state()
    for index, seed in enumerate(SEEDS):
        alone = agent_of(name, (seed,), **settings)
        learn(alone, SeedStreams((seed,)), 10)
        for key, value in alone.state().items():
            if (
                value.ndim
                and not key.startswith(("critic_method", "actor_method", "guard"))
                and "adam.step" not in key
            ):
                torch.testing.assert_close(
                    stacked[key][index], value[0], rtol=1e-6, atol=1e-6, msg=key
                )


@pytest.mark.parametrize("name", ["mtsac_te", "mhsac"])
def test_each_seed_and_each_task_has_its_own_initial_parameters(name):
    agent = agent_of(name, (0, 1))
    for key, value in agent.critics.own.items():
        if "bias0" not in key and value.abs().sum() > 0:
            assert not torch.equal(value[0], value[1]) and not torch.equal(
                value[0, 0], value[0, 1]
            ), key
    alone = agent_of(name, (1,))
    assert all(
        torch.equal(value[0], agent.critics.own[key][1]) for key, value in alone.critics.own.items()
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_heads(method):
    agent = agent_of("mhsac", SEEDS, method)
    before = copied(agent.state())
    metrics = learn(agent, SeedStreams(SEEDS), 1)
    assert (first_faults(agent) == -1).all() and all(
        value.isfinite().all() for value in metrics.values()
    )
    parameters = {
        key for key in before if key.startswith(("actor/", "critics/", "temperature/", "targets/"))
    }
    assert parameters <= moved(agent, before)


@pytest.mark.parametrize("updates", [0, 3])
@pytest.mark.parametrize("name", ["mtsac_te", "mhsac"])
def test_a_restored_agent_continues_bit_for_bit(name, updates):
    agent, streams = agent_of(name, SEEDS, "fairgrad", **EVERYTHING), SeedStreams(SEEDS)
    if updates:
        learn(agent, streams, updates)
    restored, again = agent_of(name, (8, 9), "fairgrad", **EVERYTHING), SeedStreams((8, 9))
    restored.load_state(copied(agent.state()))
    again.load_state(streams.state().clone())
    learn(agent, streams, 3)
    learn(restored, again, 3)
    assert moved(restored, agent.state()) == set()
    observations = streams.normal(TASKS, OBSERVATION).double()
    assert torch.equal(agent.act(observations), restored.act(observations))


def test_another_architectures_state_is_refused():
    for one in TOGETHER:
        for other in TOGETHER:
            if one != other:
                with pytest.raises(ValueError, match="configuration the run was started with"):
                    agent_of(one).load_state(agent_of(other).state())


@pytest.mark.parametrize("name", TOGETHER)
def test_acting_uses_each_tasks_own_networks(name):
    agent, streams = agent_of(name, SEEDS), SeedStreams(SEEDS)
    learn(agent, streams, 1)
    observations, noise = (
        streams.normal(TASKS, OBSERVATION).double(),
        streams.normal(TASKS, ACTION).double(),
    )
    mode, sampled = agent.act(observations), agent.act(observations, noise)
    assert mode.shape == sampled.shape == (2, TASKS, ACTION)
    for s in range(2):
        for k in range(TASKS):
            critics = {**of(agent.critics.shared, s), **of(agent.critics.own, s, k)}
            actor = {**of(agent.actor.shared, s), **of(agent.actor.own, s, k)}
            seen = networks.with_encoding(critics, observations[s, k])
            torch.testing.assert_close(
                mode[s, k], networks.policy(actor, seen, agent.losses.log_std)[0].tanh()
            )
            expected = networks.sample(actor, seen, noise[s, k], agent.losses.log_std)[0]
            torch.testing.assert_close(sampled[s, k], expected)


@pytest.mark.parametrize("name", TOGETHER)
def test_different_values_are_learned_from_the_same_observations(name):
    """Without a task id, heads and encoders distinguish tasks with equal data; mtsac cannot."""
    agent = agent_of(name, learning_rate=1e-2)
    streams, rewards = SeedStreams((0,)), torch.tensor([-1.0, 0.0, 1.0]).double().view(1, TASKS, 1)
    for _ in range(60):
        batch, noise = draw_update(streams)
        same = Batch(*(field[:, :1].expand_as(field) for field in batch[:5]))
        ended = same._replace(
            rewards=rewards.expand_as(same.rewards), terminated=torch.ones_like(same.terminated)
        )
        info = agent.update(ended, noise)
    apart = (info.value - rewards.squeeze(-1)).abs().max()
    assert apart < 0.3 if name != "mtsac" else apart > 0.7
