"""Returns of several steps, scaled rewards and normalised observations in a learner.

What is stored stays raw, statistics follow each simulator, and resume is exact.
"""

import numpy as np
import pytest
import torch

from mtrl_fairgrad.agents import Transition
from mtrl_fairgrad.gradients.cuda_graph import WARM_UP
from tests.support.errors import refused
from tests.support.recorder import StandIn
from tests.support.small_learner import ACTION, OBSERVATION, SMALL, TASKS, flat, learner_of

SCALED = [
    *SMALL,
    "agent.n_step=3",
    "agent.return_normalization=per_task",
    "agent.observation_normalization=running",
    "agent.observation_normalization_steps=40",
]
AGENTS = {
    "mtsac": [],
    "mtsac_te": ["agent=mtsac_te"],
    "mhsac": ["agent=mhsac"],
    "stl": ["agent=stl"],
}


def transition(number, seeds, copies):
    """One step of some copies with random ends; a seed's do not depend on the others."""

    def one(seed):
        drawn = np.random.default_rng([number, seed]).standard_normal(
            (copies, TASKS, 2 * OBSERVATION + ACTION + 3)
        )
        return torch.from_numpy(drawn).float()

    observations, actions, following, rewards, terminated, ended = torch.stack(
        [one(seed) for seed in seeds]
    ).split([OBSERVATION, ACTION, OBSERVATION, 1, 1, 1], dim=-1)
    rewards = rewards.squeeze(-1) * torch.tensor([1.0, 100.0])
    terminated, ended = terminated.squeeze(-1) > 1.5, ended.squeeze(-1) > 1
    return Transition(
        observations + 3, actions.tanh(), rewards, following, terminated.float(),
        (terminated | ended).float(),
    )  # fmt: skip


def feed(learner, first, last, copies=1, seeds=(0, 1)):
    """Learn and store vector steps first to last − 1, in two halves if there are copies."""
    halves = 1 if copies == 1 else 2
    for number in range(first, last):
        learner.learn(number * copies)
        for half in range(halves):
            learner.store(transition(2 * number + half, seeds, copies // halves))


def snapshot(learner):
    state = {
        group: {name: value.clone() for name, value in found.items()}
        for group, found in learner.state().items()
    }
    return state, learner.replay.rows.clone(), learner.replay.added


def restore(learner, state, rows, added):
    learner.replay.rows.copy_(rows)
    learner.replay.added = added
    learner.load_state(state)


def everything(learner):
    return {**flat(learner), "ring": learner.replay.rows[: learner.replay.size]}


def places(learner, seeds=2):
    """All places of the ring."""
    return torch.arange(learner.replay.size).expand(seeds, TASKS, -1)


@pytest.mark.parametrize(
    ("name", "copies"),
    [
        ("mhsac", 4),
        ("stl", 1),
        *(
            pytest.param(*each, marks=pytest.mark.exhaustive)
            for each in zip(AGENTS, [4, 4, 1, 4], strict=True)
        ),
    ],
)
def test_a_restored_learner_goes_on_bit_for_bit(name, copies):
    words = [*SCALED, *AGENTS[name], "seeds=[0,1]", f"env.copies={copies}", "agent.buffer_size=13"]
    whole, restored, saved = learner_of(*words), learner_of(*words), {}
    last = 16  # across the end of the ring of 13 rows
    for step in range(last):
        if step in (3, last - 4):
            saved[step] = snapshot(whole)
        feed(whole, step, step + 1, copies)
    expected = everything(whole)
    assert whole.updates > 3 and whole.replay.added > whole.replay.capacity
    for step, state in saved.items():
        restore(restored, *state)
        feed(restored, step, last, copies)
        found = everything(restored)
        assert found.keys() == expected.keys()
        assert [key for key, v in expected.items() if not torch.equal(v, found[key])] == []


@pytest.mark.parametrize("name", ["mtsac", "stl"])
@pytest.mark.parametrize("copies", [1, 4])
def test_a_seeds_data_and_statistics_are_with_others_as_alone(name, copies):
    words = [*SCALED, *AGENTS[name], f"env.copies={copies}"]
    together, alone = learner_of(*words, "seeds=[0,1]"), learner_of(*words, "seeds=[1]")
    feed(together, 0, 5, copies)
    feed(alone, 0, 5, copies, seeds=(1,))
    ours, theirs = together.returns.state(), alone.returns.state()
    for key in ours.keys() - {"count"}:
        assert torch.equal(ours[key][1:], theirs[key]), key
    batch, single = together.sample(places(together)), alone.sample(places(alone, 1))
    for key, value in batch._asdict().items():
        assert torch.equal(value[1:], getattr(single, key)), key


@pytest.mark.parametrize("name", AGENTS)
def test_batches_are_normalised_and_the_ring_stays_raw(name):
    words = [*AGENTS[name], "seeds=[0,1]", "env.copies=2"]
    learner, plain = learner_of(*SCALED, *words), learner_of(*SMALL, "agent.n_step=3", *words)
    for each in (learner, plain):
        feed(each, 0, 6, copies=2)
    raw = learner.replay.sample(places(learner))
    assert torch.equal(learner.replay.rows[:12], plain.replay.rows[:12])
    batch = learner.sample(places(learner))
    scale = learner.returns.scale(learner.agent.log_temperature.exp())
    assert scale.shape == (2, TASKS) and (scale[:, 1] > 10 * scale[:, 0]).all()
    torch.testing.assert_close(batch.rewards, raw.rewards / scale.unsqueeze(-1).float())
    assert torch.equal(batch.observations, learner.agent.normalized(raw.observations))
    assert torch.equal(batch.next_observations, learner.agent.normalized(raw.next_observations))
    entries = OBSERVATION - TASKS  # the last ones count as the one-hot identity
    assert batch.observations[..., :entries].mean().abs() < 0.1
    assert raw.observations[..., :entries].mean() > 2
    assert torch.equal(batch.observations[..., entries:], raw.observations[..., entries:])
    assert torch.equal(plain.sample(places(plain)).rewards, raw.rewards)


def test_the_scale_of_returns_is_logged():
    learner = learner_of(*SCALED)
    feed(learner, 0, 8, seeds=(0,))
    expected = learner.returns.scale(learner.agent.log_temperature.exp())
    assert torch.equal(learner.report()["return_scale"], expected)
    without = learner_of(*SMALL)
    feed(without, 0, 8, seeds=(0,))
    assert "return_scale" not in without.report()
    assert without.state().keys() == {"agent", "streams"}
    assert not any("observations" in key for key in without.agent.state())


@pytest.mark.parametrize("copies", [1, 4])
def test_abandoned_episodes_end_returns_of_several_steps_and_running_returns(copies):
    words = [*SCALED, "seeds=[0,1]", f"env.copies={copies}"]
    learner, discount = learner_of(*words), learner_of(*words).config.discount
    feed(learner, 0, 3, copies)
    learner.restart_episodes()
    feed(learner, 3, 4, copies)
    before = slice(2 * copies, 3 * copies)
    batch = learner.replay.sample(places(learner))
    assert (batch.discounts[..., before] == torch.tensor(discount)).all()
    assert (batch.discounts[..., :copies] < discount**1.5).any(), "others are longer"
    halves = [transition(2 * 3 + half, (0, 1), max(copies // 2, 1)) for half in range(2)]
    rewards = torch.cat([each.rewards for each in halves[: min(copies, 2)]], dim=1)
    assert torch.equal(learner.returns.state()["returns"], rewards.double())


def test_observation_statistics_are_kept_after_the_stated_number_of_transitions():
    learner = learner_of(*SMALL, *SCALED[-2:], "seeds=[0,1]", "env.copies=4")
    statistics = learner.agent.observations.state()
    for step in range(14):
        feed(learner, step, step + 1, copies=4)
        assert statistics["count"].item() == min(4 * (step + 1), 40) * TASKS
    forever = learner_of(*SMALL, SCALED[-2], "seeds=[0,1]", "env.copies=4")
    feed(forever, 0, 14, copies=4)
    assert forever.agent.observations.state()["count"].item() == 4 * 14 * TASKS


def test_graphs_read_the_newest_row_and_statistics():
    words = [*SCALED, "method=ls", "seeds=[0,1]", "env.copies=2", "agent.warmup_steps=2"]
    plain, graphed, log = learner_of(*words), learner_of(*words), []
    graphed.use_graphs(StandIn(log))
    for learner in (plain, graphed):
        feed(learner, 0, WARM_UP + 20, copies=2)
    assert log.count("begin") == 1
    expected, found = everything(plain), everything(graphed)
    assert [key for key, value in expected.items() if not torch.equal(value, found[key])] == []


def test_options_of_one_purpose_exclude_each_other():
    words = ["agent.return_normalization=per_task", "agent.reward_normalization=running_std"]
    with refused("agent.return_normalization", "per_task"):
        learner_of(*SMALL, *words)


def test_a_ring_without_room_for_a_return_is_refused():
    learner_of(*SMALL, "agent.n_step=5", "env.copies=6")
    with refused("agent.buffer_size", 30):
        learner_of(*SMALL, "agent.n_step=4", "env.copies=8")
