"""Options of networks and agent: the effect of each, for one seed and for several."""

import math

import pytest
import torch
from torch.nn import functional as F

from mtrl_fairgrad import LS, make_method
from mtrl_fairgrad.agents import SAC, SeedStreams, SingleTaskSAC, networks
from mtrl_fairgrad.agents.networks import init_actor, init_critics
from mtrl_fairgrad.config.agent import ARCHITECTURES, Architecture
from mtrl_fairgrad.gradients.per_task import lift
from tests.unit.agents.conftest import (
    ACTION,
    BATCH,
    DIMENSIONS,
    OBSERVATION,
    TASKS,
    draw_update,
    first_faults,
    make_agent,
    small_config,
    train,
)

ALL = {"critic_width": 20, "critic_layer_norm": True, "initialization": "xavier", "log_std": "tanh"}


def agent_of(seeds=(0,), method="ls", name="mtsac", **changes):
    critic, actor = make_method(method), make_method(method)
    config = small_config(name, **changes)
    return SAC(config, *DIMENSIONS, seeds, TASKS, critic, actor, dtype=torch.float64)


def generator():
    return torch.Generator().manual_seed(0)


# ---- networks ----


@pytest.mark.parametrize("name", ["mtsac_te", "mhsac"])
def test_xavier_means_every_layer_and_zero_biases(name):
    config = small_config(name, width=200, initialization="xavier")
    for init in (init_actor, init_critics):
        made = init(config, 40, 4, TASKS, generator())
        for key, value in {**made.shared, **made.own}.items():
            if "weight" in key and value.numel() > 1000:
                bound = math.sqrt(6 / (value.shape[-1] + value.shape[-2]))
                assert 0.97 * bound < value.abs().max() <= bound, key
                assert abs(value.std().item() - bound / math.sqrt(3)) < 0.05 * bound, key
            elif "bias" in key:
                assert not value.any(), key


def test_an_embedding_is_initialised_standard_normal():
    embedding = init_critics(small_config("mtsac_te"), 40, 4, 200, generator()).own["embedding"]
    assert (
        embedding.shape == (200, 50)
        and abs(embedding.mean()) < 0.03
        and abs(embedding.std() - 1) < 0.03
    )


def test_critics_may_have_another_width():
    config = small_config(critic_width=17)
    made = init_critics(config, *DIMENSIONS, TASKS, generator()).shared
    assert made["first.weight1"].shape == made["second.weight1"].shape == (17, 17)
    assert init_actor(config, *DIMENSIONS, TASKS, generator()).shared["weight1"].shape == (
        24,
        24,
    )


def test_layer_norm_comes_after_each_hidden_linear_layer_of_the_critics():
    agent = agent_of(critic_layer_norm=True, learning_rate=1e-2)
    train(agent, (0,), 2)
    critics = {name: value[0] for name, value in agent.critics.shared.items()}
    streams = SeedStreams((5,))
    obs, actions = (
        streams.normal(BATCH, OBSERVATION)[0].double(),
        streams.normal(BATCH, ACTION)[0].double(),
    )
    hidden = torch.cat([obs, actions], -1)
    for layer in range(2):
        hidden = hidden @ critics[f"first.weight{layer}"].T + critics[f"first.bias{layer}"]
        centred = hidden - hidden.mean(-1, keepdim=True)
        hidden = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        hidden = F.relu(hidden * critics[f"first.scale{layer}"] + critics[f"first.shift{layer}"])
    expected = (hidden @ critics["first.weight2"].T + critics["first.bias2"]).squeeze(-1)
    torch.testing.assert_close(
        networks.critic_outputs(critics, obs, actions).squeeze(-1)[0], expected
    )
    assert (critics["second.scale1"] != 1).any() and critics["second.shift1"].any(), (
        "both are learnt"
    )
    assert "first.scale2" not in critics and "scale0" not in agent.actor.shared


def test_each_head_has_its_own_layer_norm():
    made = init_critics(
        small_config("mhsac", critic_layer_norm=True), *DIMENSIONS, TASKS, generator()
    )
    assert {name for name in made.own if "scale" in name} == {"first.scale3", "second.scale3"}
    assert made.own["first.scale3"].shape == (TASKS, 24) and "first.scale2" in made.shared


class BroNet(torch.nn.Module):
    """The network of BRO, figure 2 (Nauman et al., 2024), as ordinary modules."""

    def __init__(self, inputs, width, blocks, outputs):
        super().__init__()
        nn = torch.nn
        self.first = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(),
                nn.Linear(width, width), nn.LayerNorm(width),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.head = nn.Linear(width, outputs)

    def forward(self, inputs):
        hidden = self.first(inputs)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


def modules_of(parameters, prefix, blocks):
    """The same network with the values of our parameters, by the modules' names."""
    parts = {"weight": "weight", "bias": "bias", "scale": "weight", "shift": "bias"}
    places = {f"{prefix}{{}}0": "first.0", f"{prefix}{{}}1": "head"}
    for block in range(blocks):
        for layer in range(2):
            places[f"{prefix}block{block}.{{}}{layer}"] = f"blocks.{block}.{3 * layer}"
    state = {}
    for ours, theirs in places.items():
        for part, name in parts.items():
            if ours.format(part) in parameters:
                stem, _, number = theirs.rpartition(".")
                norm = part in ("scale", "shift")
                place = f"{stem}.{int(number) + 1}" if norm else theirs
                state[f"{place}.{name}"] = parameters[ours.format(part)]
    made = BroNet(parameters[f"{prefix}weight0"].shape[1], 24, blocks, len(state["head.bias"]))
    made.double().load_state_dict(state)
    return made


@pytest.mark.parametrize("blocks", [1, 3])
def test_bronet_is_the_network_of_its_paper_in_actor_and_critics(blocks):
    agent = agent_of(network="bronet", depth=blocks, learning_rate=1e-2)
    train(agent, (0,), 3)
    actor, critics = (
        {name: value[0] for name, value in part.shared.items()}
        for part in (agent.actor, agent.critics)
    )
    obs, actions = torch.randn(9, OBSERVATION).double(), torch.rand(9, ACTION).double()
    torch.testing.assert_close(networks.mlp(actor, obs), modules_of(actor, "", blocks)(obs))
    joined = torch.cat([obs, actions], -1)
    expected = [modules_of(critics, f"{twin}.", blocks)(joined) for twin in ("first", "second")]
    torch.testing.assert_close(
        networks.critic_outputs(critics, obs, actions), torch.stack(expected)
    )
    assert (critics["second.block0.scale1"] != 1).all()
    assert critics["second.block0.shift1"].all()


def test_heads_of_bronet_follow_a_shared_trunk_of_blocks():
    config = small_config("mhsac", network="bronet", depth=2, critic_width=20)
    made = init_critics(config, *DIMENSIONS, TASKS, generator())
    layers = {name for name in made.own if name.startswith("first.")}
    assert layers == {f"first.{part}1" for part in ("weight", "bias", "scale", "shift")} | {
        "first.weight2",
        "first.bias2",
    }
    assert made.own["first.weight1"].shape == (TASKS, 20, 20)
    trunk = {name for name in made.shared if name.startswith("first.block")}
    assert len(trunk) == 2 * 2 * 4
    assert not any("scale" in name for name in init_critics(
        small_config("mhsac"), *DIMENSIONS, TASKS, generator()
    ).shared)  # fmt: skip


@pytest.mark.parametrize("bound", ["clamp", "tanh"])
def test_the_range_of_the_log_standard_deviation_is_an_option(bound):
    agent = agent_of(log_std=bound, log_std_min=-5.0, log_std_max=0.5)
    given = torch.tensor([-1e9, -0.3, 0.0, 1e9]).double()
    expected = given.clamp(-5, 0.5) if bound == "clamp" else -5 + 2.75 * (given.tanh() + 1)
    torch.testing.assert_close(agent.losses.log_std(given), expected)
    agent.actor.shared["bias2"][0, ACTION:] = 1e9  # the largest deviation
    observations, noise = torch.zeros(1, TASKS, OBSERVATION), torch.ones(1, TASKS, ACTION)
    sampled = agent.act(observations.double(), noise.double()).atanh()
    mode = agent.act(observations.double()).atanh()
    torch.testing.assert_close(sampled - mode, torch.full_like(mode, math.exp(0.5)))


def test_tanh_squashes_the_log_standard_deviation_into_its_range():
    actor = {
        "weight0": torch.eye(2 * ACTION, OBSERVATION).double(),
        "bias0": torch.zeros(2 * ACTION).double(),
    }
    raw = torch.tensor([-9.0, -1.0, 0.0, 0.5, 9.0]).double()
    observations = torch.zeros(5, OBSERVATION).double()
    observations[:, ACTION] = raw
    mean, log_std = networks.policy(actor, observations, networks.LogStd("tanh"))
    torch.testing.assert_close(log_std[:, 0], -20 + 11 * (raw.tanh() + 1))
    _, clamped = networks.policy(actor, observations * 10, networks.LogStd())
    assert clamped[:, 0].tolist() == [-20, -10, 0, 2, 2] and not mean.any()


# ---- temperature ----


def test_a_shared_temperature_follows_the_mean_of_its_gradients():
    agent = agent_of((0, 1), temperature="shared", temperature_learning_rate=1e-2)
    streams, moments = SeedStreams((0, 1)), [0.0, 0.0]
    expected = torch.zeros(2, dtype=torch.float64)
    for step in range(1, 4):
        gradient = agent.update(*draw_update(streams)).entropy.mean(-1) + ACTION
        for index, (rate, value) in enumerate(((0.9, gradient), (0.999, gradient**2))):
            moments[index] = rate * moments[index] + (1 - rate) * value
        first, second = moments[0] / (1 - 0.9**step), moments[1] / (1 - 0.999**step)
        expected = expected - 1e-2 * first / (second.sqrt() + agent.config.adam_epsilon)
        result = agent.log_temperature
        assert torch.equal(result, result[:, :1].expand_as(result))
        torch.testing.assert_close(result[:, 0], expected)
    apart = agent_of((0, 1), temperature_learning_rate=1e-2)
    train(apart, (0, 1), 3)
    assert (apart.log_temperature.std(-1) > 0).all()


# ---- resets ----


def copied(agent):
    return {name: value.clone() for name, value in agent.state().items()}


def parameters(agent):
    return {
        n: v
        for n, v in agent.state().items()
        if n.startswith(("actor/", "critics/", "temp", "targets/"))
    }


@pytest.mark.parametrize("method", ["ls", "fairgrad", "moco", "gradvac"])
@pytest.mark.parametrize("name", ["mtsac", "mtsac_te", "mhsac"])
def test_a_reset_agent_trains_like_a_new_one_with_its_parameters(name, method):
    agent, fresh = agent_of((0, 1), method, name), agent_of((8, 9), method, name)
    untrained = copied(fresh)
    learn(agent, SeedStreams((0, 1)), 4)
    agent.reset(1)
    begun = parameters(agent)
    start = {name: value for name, value in agent.state().items() if "/adam." not in name}
    assert set(start) == set(untrained)
    fresh.load_state({**start, "updates": untrained["updates"]})
    assert all(torch.equal(v, begun[f"critics/{g}.{n}"]) for n, v, g in targets_of(agent))
    for one in (agent, fresh):
        learn(one, SeedStreams((5, 6)), 2)
    after, expected = agent.state(), fresh.state()
    assert [
        name
        for name in expected
        if name != "updates" and not torch.equal(after[name], expected[name])
    ] == []
    assert agent.updates == 6


def learn(agent, streams, updates):
    for _ in range(updates):
        batch, noise = draw_update(streams)
        drawn = [
            method.draw(streams.generators) for method in (agent.critic_method, agent.actor_method)
        ]
        agent.update(batch, noise._replace(critic_method=drawn[0], actor_method=drawn[1]))


def targets_of(agent):
    groups = (("shared", agent.target_critics), ("own", agent.target_own))
    return [(name, value, group) for group, targets in groups for name, value in targets.items()]


@pytest.mark.parametrize("name", ["mtsac", "mhsac"])
def test_a_seeds_resets_do_not_depend_on_other_seeds(name):
    seeds = (3, 11)
    together = agent_of(seeds, name=name)
    first = copied(together)
    together.reset(1)
    second = copied(together)
    together.reset(2)
    weights = [state["actor/shared.weight0"] for state in (first, second, together.state())]
    assert not any(
        torch.equal(a, b) for a, b in ((weights[0], weights[1]), (weights[1], weights[2]))
    )
    for index, seed in enumerate(seeds):
        alone = agent_of((seed,), name=name)
        train(alone, (seed,), 2)
        alone.reset(2)
        for group in ("actor", "critics"):
            for key, value in getattr(alone, group).shared.items():
                assert torch.equal(value[0], getattr(together, group).shared[key][index]), key


def test_a_reset_restores_the_initial_temperature_and_keeps_tensors_in_place():
    agent = agent_of(initial_temperature=0.3)
    held = agent.actor.shared["weight0"]
    train(agent, (0,), 3)
    agent.reset(1)
    torch.testing.assert_close(agent.log_temperature.exp(), torch.full((1, TASKS), 0.3).double())
    assert agent.actor.shared["weight0"] is held


@pytest.mark.parametrize("updates", [0, 2])
def test_a_checkpoint_right_after_a_reset_continues_bit_for_bit(updates):
    agent, restored = agent_of((0, 1), "moco"), agent_of((8, 9), "moco")
    learn(agent, SeedStreams((0, 1)), updates)
    agent.reset(1)
    restored.load_state(copied(agent))
    for one in (agent, restored):
        learn(one, SeedStreams((5, 6)), 2)
    assert all(torch.equal(value, restored.state()[name]) for name, value in agent.state().items())


# ---- all at once ----


def test_single_task_agents_take_the_options_too():
    agent = SingleTaskSAC(
        small_config("stl", **ALL), *DIMENSIONS, (0, 1), TASKS, dtype=torch.float64
    )
    train(agent, (0, 1), 2)
    agent.reset(1)
    weights = agent.lanes.actor.shared["weight0"]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[TASKS])
    metrics = train(agent, (0, 1), 1)
    assert metrics["critic/loss"].shape == (2, TASKS) and (first_faults(agent) == -1).all()


def test_the_actors_loss_is_one_graph(monkeypatch):
    """With heads, encoder and all options, no operation depends on values."""
    monkeypatch.setitem(ARCHITECTURES, "all", Architecture(own_layers=2, encoding=5))
    agent = agent_of(name="all", **ALL)
    batch, noise = draw_update(SeedStreams((0,)))
    temperature = agent.log_temperature.exp()
    parameters = agent.actor.shared, agent.critics.shared, agent.actor.own, agent.critics.own
    arguments = *parameters, batch.observations, noise.actions, temperature
    loss = agent.actor_loss
    traced = torch.compile(lift(loss, per_seed=2), backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(*arguments), lift(loss, per_seed=2)(*arguments))


def test_the_default_options_give_the_original_networks():
    agent, plain = make_agent((3,), method="ls"), generator().manual_seed(3)
    bound = math.sqrt(6 / OBSERVATION)
    first = (torch.rand((24, OBSERVATION), generator=plain) * 2 - 1) * bound
    assert torch.equal(agent.actor.shared["weight0"][0], first.double())
    assert agent.critic_method.name == LS().name and not agent.actor.own and not agent.critics.own
