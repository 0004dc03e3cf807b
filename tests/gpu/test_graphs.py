"""Updates and actions replayed from CUDA graphs are those that are made one by one."""

import warnings

import numpy as np
import pytest
import torch

from mtrl_fairgrad import method_names, register_network
from mtrl_fairgrad.utils.faults import FallbackWarning
from tests.support.gated_network import Gated
from tests.support.gpu_learner import (
    EAGER,
    FIRST,
    GRAPH,
    assert_same_state,
    feed,
    is_replayed,
    learner_on,
    method_words,
)
from tests.support.small_learner import ACTION, OBSERVATION

pytestmark = pytest.mark.filterwarnings(f"error::{FallbackWarning.__module__}.FallbackWarning")
HOST = ("aligned_mtl", "cagrad", "gradvac", "imtl_g", "mgda", "pcgrad", "upgrad")
"""Methods whose graphs are split by calls on the host."""


def compare(device, *words, tasks=3):
    eager = feed(learner_on(device, EAGER, *words, tasks=tasks))
    graph = feed(learner_on(device, GRAPH, *words, tasks=tasks))
    if device.type == "cuda":
        assert is_replayed(graph) and not is_replayed(eager)
    assert_same_state(graph, eager)
    return graph


@pytest.mark.parametrize("name", method_names())
def test_replayed_updates_are_those_of_eager_ones(name, device):
    compare(device, *method_words(name), "seeds=[0,1]")


@pytest.mark.parametrize("agent", ["mtsac_te", "mhsac"])
@pytest.mark.parametrize("guard", ["stop", "skip"])
def test_agents_and_guards_are_replayed(agent, guard, device):
    compare(device, f"agent={agent}", f"guard.non_finite={guard}", "method=fairgrad")


def test_ten_seeds_are_replayed(device):
    compare(device, "method=fairgrad", "seeds=[0,1,2,3,4,5,6,7,8,9]")


@pytest.mark.parametrize("name", ["fairgrad", "pcgrad"])
def test_fifty_tasks_are_replayed(name, device):
    compare(device, f"method={name}", tasks=50)


def test_several_updates_are_replayed_by_one_launch(device):
    words = ["agent.updates_per_step=3", "updates_per_launch=3", "agent.reset_every=40"]
    compare(device, "method=fairgrad", *words)


@pytest.mark.parametrize("name", ["fairgrad", *HOST])
def test_calls_on_the_host_split_the_graph(name, card):
    [graphed] = feed(learner_on(card, GRAPH, f"method={name}"))._graph.captured
    steps = graphed._captured.steps
    assert (len(steps) > 1) == (name in HOST)


def test_an_update_that_cannot_be_captured_is_made_eagerly_and_draws_stay_usable(card, monkeypatch):
    failing, plain = learner_on(card, GRAPH), feed(learner_on(card, EAGER))
    update = failing.agent.update

    def looking(batch, noise):
        info = update(batch, noise)
        float(info.entropy.sum())
        return info

    monkeypatch.setattr(failing.agent, "update", looking)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        feed(failing)
    [sentence] = [str(each.message) for each in caught if each.category is FallbackWarning]
    assert "_local_scalar_dense" in sentence
    assert not is_replayed(failing)
    assert torch.randn(3, device=card).isfinite().all()
    assert_same_state(failing, plain)


def test_a_graph_can_be_captured_after_a_failure(card, monkeypatch):
    test_an_update_that_cannot_be_captured_is_made_eagerly_and_draws_stay_usable(card, monkeypatch)
    compare(card, "method=fairgrad")


def test_a_resumed_learner_continues_bit_for_bit(device, deterministic):
    whole = feed(learner_on(device, GRAPH, "method=fairgrad"))
    state = {
        group: {name: value.clone() for name, value in tensors.items()}
        for group, tensors in whole.state().items()
    }
    resumed = learner_on(device, GRAPH, "method=fairgrad")
    resumed.load_state(state)
    resumed.replay.rows.copy_(whole.replay.rows)
    resumed.replay.added = whole.replay.added
    for learner in (whole, resumed):
        feed(learner, steps=25, start=100)
    assert_same_state(resumed, whole, exact=True)


@pytest.mark.parametrize("agent", ["mtsac", "mtsac_te", "stl"])
def test_acting_in_a_graph_is_acting_eagerly(agent, device):
    learners = [learner_on(device, word, f"agent={agent}") for word in (EAGER, GRAPH)]
    for number in range(FIRST, FIRST + 30):
        observations = np.random.default_rng(number).standard_normal((3, OBSERVATION))
        eager, graph = (each.act(observations.astype(np.float32), number) for each in learners)
        assert graph.shape == (3, ACTION)
        np.testing.assert_allclose(graph, eager, rtol=1e-5, atol=1e-6)


def test_a_registered_network_is_replayed(device, monkeypatch):
    monkeypatch.setattr("mtrl_fairgrad.config.networks._registered", {})

    register_network("gated")(Gated)
    compare(device, "method=fairgrad", "agent.network=gated")
