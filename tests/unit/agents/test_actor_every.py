"""Updates of the critics alone: what stays, what is drawn, guarded, logged and resumed."""

import pytest
import torch

from mtrl_fairgrad.agents import Noise, SeedStreams, SingleTaskSAC
from mtrl_fairgrad.config.guard import CHECKS
from tests.support.small_learner import SMALL, flat, go, learner_of
from tests.unit.agents.conftest import (
    DIMENSIONS,
    TASKS,
    draw_update,
    make_agent,
    small_config,
    train,
)

OF_ACTOR = ("actor/", "temperature/", "actor_method/")
EVERY_KIND = ("fairgrad", "graddrop", "moco", "famo")


def copied(state):
    return {name: value.clone() for name, value in state.items()}


def without_actor(noise, method=None):
    return Noise(noise.next_actions, None, method)


@pytest.mark.parametrize("lanes", [False, True])
def test_an_update_of_the_critics_alone_leaves_actor_and_temperatures_as_they_are(lanes):
    agent = make_agent((0, 1), method="moco")
    if lanes:
        agent = SingleTaskSAC(small_config("stl"), *DIMENSIONS, (0, 1), TASKS, dtype=torch.float64)
    train(agent, (0, 1), 2)
    before = copied(agent.state())
    batch, noise = draw_update(SeedStreams((0, 1)))
    info = agent.update(batch, without_actor(noise))
    kept = {name for name, value in agent.state().items() if torch.equal(value, before[name])}
    assert kept >= {name for name in before if name.startswith(OF_ACTOR)}
    assert not kept & {name for name in before if name.startswith(("critics/", "targets/"))}
    assert agent.updates == 3
    assert info.actor is None and info.entropy is None
    assert info.critic.losses.shape == info.temperature.shape == (2, TASKS)
    assert all(name.startswith(("critic/", "temperature")) for name in info.metrics())


def test_the_critics_step_is_the_same_with_and_without_the_actor():
    together, alone = make_agent(), make_agent()
    batch, noise = draw_update(SeedStreams((0,)))
    together.update(batch, noise)
    alone.update(batch, without_actor(noise))
    ours, theirs = alone.state(), together.state()
    for name in theirs:
        if name.startswith(("critics/", "targets/", "critic_method/", "updates")):
            assert torch.equal(ours[name], theirs[name]), name


def test_the_actor_is_guarded_in_its_own_updates_only():
    words = [*SMALL, "method=ls", "agent.actor_every=3", "guard.smallest_temperature=2"]
    learner = learner_of(*words)
    go(learner, 0, 5 + 8, seeds=(0,))
    faults = learner.agent.faults()
    dead = [name for _, name in CHECKS].index("dead_temperature")
    assert (faults.counts[dead] == 2).all() and (faults.first[dead] == 2).all()


def test_every_third_update_is_the_actors():
    learner = learner_of(*SMALL, "agent.actor_every=3", "agent.updates_per_step=2")
    for step, (critic, actor) in zip(
        range(5, 10), [(2, 0), (4, 1), (6, 2), (8, 2), (10, 3)], strict=True
    ):
        go(learner, 0 if step == 5 else step, step + 1, seeds=(0,))
        counts = learner.agent.critics.adam.count, learner.agent.actor.adam.count
        assert counts == (critic, actor) and learner.agent.temperature.adam.count == actor


@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_seed_draws_and_learns_alone_as_beside_others(name):
    words = [*SMALL, f"method={name}", "agent.actor_every=2"]
    alone, beside = learner_of(*words, "seeds=[1]"), learner_of(*words, "seeds=[0,1]")
    go(alone, 0, 12, seeds=(1,))
    go(beside, 0, 12, seeds=(0, 1))
    assert torch.equal(alone.streams.state()[0], beside.streams.state()[1])
    for ours, theirs in ((alone.agent.actor, beside.agent.actor),):
        for parameter, other in zip(ours.shared.values(), theirs.shared.values(), strict=True):
            torch.testing.assert_close(parameter[0], other[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("agent", ["mtsac", "mtsac_te", "mhsac", "stl"])
def test_a_resumed_learner_keeps_the_phase(agent):
    words = [*SMALL, f"agent={agent}", "agent.actor_every=3", "seeds=[0,1]"]
    whole = learner_of(*words)
    go(whole, 0, 6)
    for last in range(7, 10):
        resumed = learner_of(*words)
        resumed.load_state(whole.state())
        resumed.replay.rows.copy_(whole.replay.rows)
        resumed.replay.added = whole.replay.added
        go(whole, last - 1, last + 1)
        go(resumed, last - 1, last + 1)
        expected, found = flat(whole), flat(resumed)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_log_shows_the_last_update_of_critics_and_actor():
    """Seven updates, of which the sixth is the last with the actor."""
    learner = learner_of(*SMALL, "method=ls", "agent.actor_every=3")
    go(learner, 0, 5 + 6, seeds=(0,))
    latest = learner._latest
    go(learner, 5 + 6, 5 + 7, seeds=(0,))
    assert learner._latest is latest
    metrics = learner.report()
    assert {"actor/loss", "entropy", "critic/gramian", "actor/gramian"} <= metrics.keys()
    assert torch.equal(metrics["critic/loss"], latest[2].critic.losses)
    go(learner, 5 + 7, 5 + 8, seeds=(0,))
    assert learner.report() == {}
