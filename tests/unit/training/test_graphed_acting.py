"""Acting from a graph and packed copies, with a recorder for the CPU."""

import numpy as np
import pytest
import torch

from mtrl_fairgrad.agents import Transition
from mtrl_fairgrad.gradients.cuda_graph import WARM_UP
from mtrl_fairgrad.training.graphed_acting import GraphedActing
from mtrl_fairgrad.utils.faults import FallbackWarning
from tests.support.recorder import StandIn
from tests.support.small_learner import ACTION, OBSERVATION, SMALL, TASKS, flat, go, learner_of

CPU = torch.device("cpu")


def observations(number, seeds):
    drawn = np.random.default_rng(number).standard_normal((seeds * TASKS, OBSERVATION))
    return drawn.astype(np.float32)


@pytest.mark.parametrize("agent", ["mtsac", "mhsac", "stl"])
def test_actions_from_a_graph_are_those_of_the_policy_as_it_changes(agent):
    words = [*SMALL, "method=ls", f"agent={agent}", "seeds=[0,1]"]
    words = [word for word in words if agent != "stl" or not word.startswith("method")]
    plain, graphed, log = learner_of(*words), learner_of(*words), []
    graphed._acting = GraphedActing(graphed.agent.act, CPU, StandIn(log))
    kept = []
    for number in range(WARM_UP + 12):
        expected, found = (
            learner.act(observations(number, 2), number) for learner in (plain, graphed)
        )
        assert found.shape == (2 * TASKS, ACTION) and found.dtype == np.float32
        assert np.array_equal(expected, found)
        kept.append((found, found.copy()))
        for learner in (plain, graphed):
            go(learner, number, number + 1)
    assert log.count("begin") == log.count("end") == 1
    assert log.count("wait") == WARM_UP + 12 - 5, "one for each action after the warm-up"
    assert all(np.array_equal(array, copy) for array, copy in kept), "no action is overwritten"


def test_acting_that_cannot_be_captured_goes_on(monkeypatch):
    plain, failing = learner_of(*SMALL, "method=ls"), learner_of(*SMALL, "method=ls")
    recorder = StandIn()
    act = failing.agent.act

    def refuse(*inputs):
        if recorder.section is not None:
            raise RuntimeError("not permitted")
        return act(*inputs)

    failing._acting = GraphedActing(refuse, CPU, recorder)
    draws = [observations(number, 1) for number in range(40)]
    expected = [plain.act(each, 10) for each in draws]
    with pytest.warns(FallbackWarning, match="^actions are computed eagerly") as caught:
        found = [failing.act(each, 10) for each in draws]
    assert len(caught) == 1 and np.array_equal(expected, found)


def test_one_copy_brings_what_a_copy_for_each_field_brings(monkeypatch):
    learner = learner_of(*SMALL, "seeds=[0,1]")
    numbers = np.random.default_rng(0)
    arrays = (
        observations(1, 2),
        numbers.uniform(-1, 1, (4, ACTION)).astype(np.float32),
        numbers.standard_normal(4),
        observations(2, 2),
        np.array([True, False, False, True]),
        np.array([True, True, False, True]),
    )
    plain = learner.to_transition(*arrays)
    allocated = []

    class Counting(StandIn):
        def host_like(self, tensor):
            allocated.append(tensor.shape)
            return super().host_like(tensor)

    learner._recorder = Counting()
    packed = learner.to_transition(*arrays)
    assert allocated == [(2, 1, TASKS, 2 * OBSERVATION + ACTION + 3)]
    assert isinstance(packed, Transition)
    for expected, found in zip(plain, packed, strict=True):
        assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_a_learner_with_graphs_continues_from_a_state():
    words = [*SMALL, "method=ls", "seeds=[0,1]"]
    plain, graphed, log = learner_of(*words), learner_of(*words), []
    graphed.use_graphs(StandIn(log))

    def run(learner, first, last):
        for number in range(first, last):
            kept.append(learner.act(observations(number, 2), number))
            go(learner, number, number + 1)

    kept = []
    run(plain, 0, 20)
    state = {
        group: {name: value.clone() for name, value in found.items()}
        for group, found in plain.state().items()
    }
    run(graphed, 0, 28)
    assert log.count("begin") == 2, "updates and actions"
    rows, added = plain.replay.rows.clone(), plain.replay.added
    kept.clear()
    run(plain, 20, 40)
    graphed.load_state(state)
    graphed.replay.rows.copy_(rows)
    graphed.replay.added = added
    run(graphed, 20, 40)
    assert log.count("begin") == 4
    assert all(map(np.array_equal, kept[:20], kept[20:]))
    expected, found = flat(plain), flat(graphed)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
