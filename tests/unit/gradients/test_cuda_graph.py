"""What a CUDA graph requires of an update, tested without a GPU, and the order of replays."""

import pytest
import torch

from mtrl_fairgrad.gradients.cuda_graph import WARM_UP, GraphedUpdates, copy_tensors
from mtrl_fairgrad.utils.faults import FallbackWarning
from mtrl_fairgrad.weighting import host, method_names
from tests.support.recorder import StandIn
from tests.support.small_learner import SMALL, flat, go, learner_of, transition


def words_of(name):
    """A method on the agent it belongs to; gradients need no more than two seeds."""
    return ["agent=stl"] if name == "stl" else [f"method={name}", "seeds=[0,1]"]


def where(learner):
    """The address of everything that an update changes."""
    return {
        name: value.data_ptr() for name, value in flat(learner).items() if name.startswith("agent/")
    }


@pytest.mark.parametrize("name", method_names())
def test_an_update_changes_things_where_they_are(name):
    learner = learner_of(*SMALL, *words_of(name))
    seeds = learner.agent.critic_method.batch_shape[0] if name != "stl" else 1
    go(learner, 0, 8, range(seeds))
    before = where(learner)
    go(learner, 8, 10, range(seeds))
    assert where(learner) == before


@pytest.mark.parametrize(
    ("words", "graphs"),
    [
        ([], 1),
        (["agent.updates_per_step=3", "updates_per_launch=3"], 1),
        (["agent.updates_per_step=4", "updates_per_launch=3"], 1),
        (["agent.actor_every=2"], 2),
        (["agent.actor_every=3", "agent.updates_per_step=3", "updates_per_launch=3"], 1),
        (["agent.actor_every=2", "agent.updates_per_step=4", "updates_per_launch=3"], 2),
        (["agent.learning_rate_end=1e-5", "agent.optimizer=adamw", "agent.weight_decay=0.1"], 1),
    ],
    ids=[
        "one",
        "three",
        "three and a rest",
        "two phases",
        "a whole cycle",
        "two phases and a rest",
        "falling rate",
    ],
)
def test_replays_learn_what_updates_learn(words, graphs):
    words = [*words, "method=ls", "agent.reset_every=7", "seeds=[0,1]"]
    plain, replaying, log = learner_of(*SMALL, *words), learner_of(*SMALL, *words), []
    replaying._graph = GraphedUpdates(replaying._update, StandIn(log))
    for number in range(30):
        for learner in (plain, replaying):
            learner.learn(number)
            learner.store(transition(number, (0, 1)))
    assert log == ["begin", "end"] * graphs and len(replaying._graph.captured) == graphs
    expected, found = flat(plain), flat(replaying)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert plain.updates == replaying.updates
    expected, found = plain.report(), replaying.report()
    assert expected.keys() == found.keys() and "actor/loss" in found
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_result_outlives_replays_that_have_none():
    """Draws by turns with and without a second part, of which only the first give a result."""
    total, log = torch.zeros(()), []

    def update(draw):
        total.add_(draw[0])
        return None if draw[1] is None else total * draw[1]

    launch, one, two = GraphedUpdates(update, StandIn(log)), torch.ones(()), torch.full((), 2.0)
    for _ in range(WARM_UP + 2):
        result = launch([(one, two)])
        expected = 2 * total.clone()
        assert launch([(one, None)]) is None
        assert result == expected
    assert log == ["begin", "end"] * 2


FEW = ["fairgrad", "fairgrad method.solver=sgd", "nash_mtl", "pcgrad", "cagrad"]
REST = [name for name in method_names() if name not in (*FEW, "stl")]


@pytest.mark.parametrize(
    "way", [*FEW, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in REST)]
)
def test_a_graph_split_at_calls_for_the_cpu_learns_what_updates_learn(way, monkeypatch):
    words = [*SMALL, *f"method={way}".split(), "seeds=[0,1]"]
    plain, split, log = learner_of(*words), learner_of(*words), []
    split._graph = GraphedUpdates(split._update, StandIn(log))
    go(plain, 0, 24)
    monkeypatch.setattr(host, "is_elsewhere", lambda value: isinstance(value, torch.Tensor))
    go(split, 0, 24)
    replays = 24 - 5 - WARM_UP
    assert log[0] == "begin" and log.count("begin") == log.count("end")
    assert log.count("wait") == replays * (log.count("begin") - 1)
    if way in FEW:
        assert log.count("begin") >= 3, "critics and actor"
    expected, found = flat(plain), flat(split)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_learner_whose_update_cannot_be_captured_learns_eagerly(monkeypatch):
    plain, failing, log = *(learner_of(*SMALL, "method=ls") for _ in range(2)), []
    failing._graph = GraphedUpdates(failing._update, StandIn(log))
    update = failing.agent.update

    def refuse(batch, noise):
        info = update(batch, noise)
        if failing._graph._recorder.section is not None:
            torch.linalg.eigvalsh(torch.eye(2))
            raise RuntimeError("not permitted\nwhen the stream is capturing")
        return info

    monkeypatch.setattr(failing.agent, "update", refuse)
    go(plain, 0, 30, seeds=(0,))
    with pytest.warns(FallbackWarning) as caught:
        go(failing, 0, 30, seeds=(0,))
    [warning] = caught
    sentence = str(warning.message)
    assert sentence.startswith("updates ") and "\n" not in sentence
    assert "aten::_linalg_eigh" in sentence and "RuntimeError: not permitted;" in sentence
    assert log == ["begin", "restored"] * 2, "the second time names the operation"
    expected, found = flat(plain), flat(failing)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_draws_of_another_number_do_not_go_through_the_graph():
    total, log = torch.zeros(()), []
    launch = GraphedUpdates(lambda draw: total.mul_(10).add_(draw).clone(), StandIn(log))
    for _ in range(WARM_UP + 2):
        total.zero_()
        assert launch([torch.tensor(1.0), torch.tensor(2.0)]) == 12
    assert launch([torch.tensor(3.0)]) == total == 123
    assert launch([torch.tensor(4.0), torch.tensor(5.0)]) == total == 12345
    assert log == ["begin", "end"]


def test_copies_reach_each_tensor_in_its_type():
    targets = [(torch.zeros(2), None), {"a": torch.zeros(3, dtype=torch.int64)}, torch.zeros(())]
    sources = [(torch.ones(2), None), {"a": torch.arange(3)}, torch.tensor(2.5)]
    copy_tensors(targets, sources)
    assert torch.equal(targets[0][0], torch.ones(2)) and targets[2] == 2.5
    assert torch.equal(targets[1]["a"], torch.arange(3))
