"""Which methods train the critics and the actor, and what is said about it."""

import pytest
import torch

from mtrl_fairgrad import FairGrad, make_method, method_names
from mtrl_fairgrad.agents import ARCHITECTURES, SAC, SingleTaskSAC
from mtrl_fairgrad.gradients.conventions import CONVENTIONS
from mtrl_fairgrad.training.factory import make_agent, make_methods, methods_by_network, remarks
from mtrl_fairgrad.weighting import LossWeighting, Weights, registry
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair
from tests.support.tiny_runs import composed

TOGETHER = [name for name in method_names() if name != "stl"]


@pytest.fixture
def positive(monkeypatch):
    """A registered method that needs positive losses."""

    class Positive(LossWeighting):
        name = "positive"
        needs_positive_losses = True

        def __init__(self):
            super().__init__()

        def forward(self, losses, noise=None):
            return Weights(1 / losses, {})

    monkeypatch.setitem(registry._registered, "positive", Positive)
    config = composed("method=ls")
    config.method = {"name": "positive"}
    return config


def build(config):
    return make_agent(config, 2, 6, 4, torch.device("cpu"))


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_an_agent_whose_actor_can_use_it(name):
    config = composed(f"method={name}", "agent.width=8")
    critic, actor = make_methods(config)
    assert type(critic) is type(make_method(name)) and critic is not actor
    assert actor.name == ("ls" if critic.needs_positive_losses else name)
    assert methods_by_network(config) == {"critic": name, "actor": actor.name}
    assert isinstance(build(config), SingleTaskSAC if name == "stl" else SAC)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_agent_has_its_networks_and_the_options(name):
    agent = build(
        composed(
            f"agent={name}", "agent.width=8", "agent.critic_width=6", "agent.critic_layer_norm=true",
            "agent.initialization=xavier", "agent.log_std=tanh",
        )
    )  # fmt: skip
    assert isinstance(agent, SingleTaskSAC if name == "stl" else SAC)
    network = agent.spec.network
    assert network.architecture is ARCHITECTURES[name] and (
        network.width,
        network.critic_width,
    ) == (8, 6)
    assert network.critic_layer_norm and (network.initialization, network.log_std) == (
        "xavier",
        "tanh",
    )
    actor = agent.lanes.actor if name == "stl" else agent.actor
    assert not any(
        value.any() for key, value in {**actor.shared, **actor.own}.items() if "bias" in key
    )


def test_the_kind_of_temperature_reaches_the_agent():
    assert build(composed("agent.width=8")).spec.temperature == "per_task"
    assert build(composed("agent.width=8", "agent.temperature=shared")).spec.temperature == "shared"


def test_both_get_the_options():
    for method in make_methods(composed("method=fairgrad", "alpha=1", "method.solver=newton")):
        assert isinstance(method, FairGrad) and (method.alpha, method.solver) == (1.0, "newton")


def test_the_actor_falls_back_to_the_mean_of_losses_and_it_is_said_once(positive):
    critic, actor = make_methods(positive)
    assert (critic.name, actor.name, actor.reduction) == ("positive", "ls", "mean")
    assert methods_by_network(positive) == {"critic": "positive", "actor": "ls"}
    assert remarks(positive) == [
        "method=positive needs positive losses, so the actor, whose losses may be negative, uses ls"
    ]
    assert build(positive).actor_method.name == "ls"


def test_there_is_nothing_to_say_of_an_ordinary_run():
    assert remarks(composed()) == [] and remarks(composed("method=ls")) == []


def test_loss_alpha_transforms_the_critics_losses_only():
    config = composed("loss_alpha=0.5", "method.solver=newton", "agent.width=8")
    critic, actor = make_methods(config)
    assert type(critic) is type(alpha_fair(FairGrad(), 0.5)) and critic.alpha == 0.5
    assert isinstance(actor, FairGrad) and actor.solver == "newton"
    assert methods_by_network(config) == {
        "critic": "fairgrad with loss_alpha=0.5",
        "actor": "fairgrad",
    }
    [said] = remarks(config)
    assert (
        "critics are trained by fairgrad with loss_alpha=0.5; the actor," in said
        and said.endswith("by fairgrad")
    )
    assert build(config).critic_method is not None


def test_loss_alpha_with_a_method_that_needs_positive_losses_is_one_remark(positive):
    positive.loss_alpha = -1.0
    assert methods_by_network(positive) == {"critic": "positive with loss_alpha=-1", "actor": "ls"}
    [said] = remarks(positive)
    assert said.endswith("by ls")


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_convention_reaches_the_agent(name):
    agent = build(composed(f"convention={name}", "agent.width=8"))
    assert agent._convention == CONVENTIONS[name]


def test_a_convention_for_parameters_that_are_not_there_is_said_to_change_nothing():
    for agent in ("mtsac", "stl"):
        [said] = remarks(composed("convention=libmtl", f"agent={agent}"))
        assert f"agent={agent} has no parameters of one task alone" in said
        assert "convention.own=weighted changes nothing" in said
    for agent in ("mtsac_te", "mhsac"):
        assert remarks(composed("convention=libmtl", f"agent={agent}")) == []


@pytest.mark.parametrize("normalize", ["loss", "loss+"])
def test_mgda_that_divides_by_losses_leaves_the_actor_to_ls(normalize):
    critic, actor = make_methods(composed("method=mgda", f"method.normalize={normalize}"))
    assert (critic.name, actor.name) == ("mgda", "ls")
    assert make_methods(composed("method=mgda"))[1].name == "mgda"
