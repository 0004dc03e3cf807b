"""Networks that a program registers: initialised, applied, trained, exported, and refused."""

import re
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest
import torch
from torch import nn

import mtrl_fairgrad
from mtrl_fairgrad.agents import networks
from mtrl_fairgrad.agents.custom_networks import custom_network, register_network
from mtrl_fairgrad.config import networks as registry
from mtrl_fairgrad.config.agent import AgentConfig, check_agent
from tests.support.errors import refused
from tests.support.gated_network import Gated
from tests.support.small_learner import SMALL, go, learner_of
from tests.support.tiny_runs import POINT_MASS, POINT_MASS_TASKS, composed


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def test_the_agent_s_networks_are_the_module_with_the_seed_s_parameters():
    register_network("gated")(Gated)
    config = AgentConfig(network="gated", width=8, critic_width=6)
    before = torch.get_rng_state()
    actor, again, other = (
        networks.init_actor(config, 5, 2, 3, torch.Generator().manual_seed(seed)).shared
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before), "the program's own numbers go on"
    assert all(torch.equal(actor[name], again[name]) for name in actor)
    assert not torch.equal(actor["head.weight"], other["head.weight"])
    module = Gated(5, 4, 8, 1)
    module.load_state_dict(actor)
    rows = torch.randn(7, 5)
    mean, _ = networks.policy(
        actor, rows, networks.LogStd(), network=networks.custom_actor(config, 5, 2)
    )
    assert torch.equal(mean, module(rows)[:, :2])
    critics = networks.init_critics(config, 5, 2, 3, torch.Generator().manual_seed(1)).shared
    actions = torch.randn(7, 2)
    values = networks.critic_outputs(
        critics, rows, actions, network=networks.custom_critic(config, 5, 2)
    )
    for twin, value in zip(networks.TWINS, values, strict=True):
        module = Gated(7, 1, 6, 1)
        own = {n.removeprefix(f"{twin}."): v for n, v in critics.items() if n.startswith(twin)}
        module.load_state_dict(own)
        assert torch.equal(value, module(torch.cat([rows, actions], 1)))


class Perceptron(nn.Module):
    """The built-in perceptron, as a module."""

    def __init__(self, inputs, outputs, width, depth):
        super().__init__()
        sizes = [inputs, *[width] * depth, outputs]
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))

    def forward(self, rows):
        for layer in self.layers[:-1]:
            rows = layer(rows).relu()
        return self.layers[-1](rows)


def as_module(name):
    """Return the module's name of a built-in parameter: `layers.0.weight` for `weight0`."""
    *twin, own = name.split(".")
    kind, layer = own[:-1], own[-1]
    return ".".join([*twin, "layers", layer, kind])


@pytest.mark.parametrize("more", [[], ["agent=mtsac_te"], ["agent=stl"]])
def test_a_module_trains_like_the_built_in_network_that_it_imitates(more):
    register_network("perceptron")(Perceptron)
    words = [*SMALL, *more, "seeds=[0,1]", "agent.depth=2"]
    built_in, custom = learner_of(*words), learner_of(*words, "agent.network=perceptron")
    state = built_in.agent.state()
    custom.agent.load_state({rename(name): value for name, value in state.items()})
    go(built_in, 0, 12), go(custom, 0, 12)
    found, expected = custom.agent.state(), built_in.agent.state()
    assert int(found["updates"]) > 0
    for name, value in expected.items():
        torch.testing.assert_close(found[rename(name)], value, rtol=1e-4, atol=1e-5, msg=name)


def rename(name):
    """The same for an entry of an agent's state; the task encoder stays as it is."""
    match = re.fullmatch(r"(.*?)((?:first\.|second\.)?(?:weight|bias)\d)", name)
    return match[1] + as_module(match[2]) if match and "encoder" not in name else name


@pytest.mark.exhaustive
def test_a_run_with_an_own_network_is_evaluated_exported_and_resumed(tmp_path, no_reports):
    mtrl_fairgrad.register_network("gated")(Gated)
    words = [*POINT_MASS, "steps=40", "agent.network=gated"]
    run = mtrl_fairgrad.train(*words, run_dir=tmp_path / "run").resume(steps=60)
    policy = run.policies[0]
    [path] = run.export(goals=1)
    observations = np.ones((4, policy.observation_size - len(POINT_MASS_TASKS)))
    exported = mtrl_fairgrad.load_policy(path)(observations, task=POINT_MASS_TASKS[0])
    assert np.allclose(exported, policy(observations, task=POINT_MASS_TASKS[0]), atol=1e-6)


class Normalized(nn.Module):
    def __init__(self, inputs, outputs, width, depth):
        super().__init__()
        self.layer, self.norm = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)

    def forward(self, rows):
        return self.norm(self.layer(rows))


class Dropping(Gated):
    def forward(self, rows):
        return nn.functional.dropout(super().forward(rows))


class Narrow(Gated):
    def forward(self, rows):
        return super().forward(rows)[..., :1]


class Double(Gated):
    def forward(self, rows):
        return super().forward(rows).double()


class Paired(Gated):
    def forward(self, rows):
        return (super().forward(rows),)


class Branching(Gated):
    def forward(self, rows):
        return super().forward(rows if rows.sum() > 0 else -rows)


class Frozen(Gated):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.gate.requires_grad_(False)


def lazy(*, inputs, outputs, width, depth):
    return nn.LazyLinear(outputs)


UNUSABLE = [
    Normalized,
    Dropping,
    Narrow,
    Double,
    Paired,
    Branching,
    Frozen,
    lazy,
    nn.Linear,  # takes other arguments
    lambda **_: nn.ReLU(),
    dict,
]


@pytest.mark.parametrize("module", UNUSABLE)
def test_a_module_that_cannot_be_used_is_refused(module):
    register_network("unusable")(module)
    with refused("agent.network", "unusable"):
        custom_network("unusable", 4, 3, 8, 1)


def test_names_are_checked():
    with refused("name", "mlp"):
        register_network("mlp")
    with refused("name", "two words"):
        register_network("two words")
    with refused("name", Gated):  # a decorator without a name
        register_network(Gated)
    with refused("agent.network", "gated"):
        check_agent(AgentConfig(network="gated"))
    register_network("gated")(Gated)
    check_agent(AgentConfig(network="gated"))
    with refused("agent.network", "gated"):
        check_agent(AgentConfig(network="gated", name="mhsac"))
    with refused("precision", "bf16"):
        composed("agent.network=gated", "precision=bf16")


def test_networks_of_installed_packages_are_found(monkeypatch):
    point = EntryPoint("gated", f"{__name__}:Gated", registry.ENTRY_POINT_GROUP)
    broken = EntryPoint("broken", "no_such_module:Net", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(
        registry, "entry_points", lambda **which: EntryPoints([point, broken]).select(**which)
    )
    assert registry.network_names() == ("mlp", "bronet", "broken", "gated")
    assert registry.custom_factory("gated") is not None
    with refused("agent.network", "broken"):
        registry.custom_factory("broken")
