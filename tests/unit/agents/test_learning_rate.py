"""Learning rates that fall linearly over a run: which updates, which optimisers, resets, resume."""

import pytest
import torch

from mtrl_fairgrad.agents import SeedStreams
from mtrl_fairgrad.agents.learning_rate import ConstantRates, rates_of
from tests.support.errors import refused
from tests.support.small_learner import SMALL, configuration, flat, go, learner_of
from tests.unit.agents.conftest import draw_update, make_agent, small_config

FALLING = ["agent.learning_rate=0.01", "agent.learning_rate_end=0.002"]


def rates(agent):
    """Learning rates of the critics and of the temperatures."""
    return [float(part.adam._options["lr"]) for part in (agent.critics, agent.temperature)]


def test_rates_fall_over_the_updates_of_the_run_and_stay_at_the_end():
    learner = learner_of(*SMALL, *FALLING, "agent.temperature_learning_rate=0.03", "steps=9")
    found = []
    for step in range(12):  # 4 updates in 9 steps, of which 5 are warm-up
        go(learner, step, step + 1, seeds=(0,))
        found.append(rates(learner.agent))
    expected = torch.tensor([1] * 6 + [0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    torch.testing.assert_close(
        torch.tensor(found), torch.stack([0.01 * expected, 0.03 * expected], -1)
    )


def test_a_constant_rate_is_a_number_with_its_own_kernel():
    agent = make_agent()
    assert isinstance(agent.rates, ConstantRates) and not agent.rates.state()
    assert isinstance(agent.actor.adam._options["lr"], float)


def test_a_schedule_that_stays_at_its_first_value_changes_no_bit():
    agents = [
        make_agent(dtype=torch.float32, learning_rate=2**-9, temperature_learning_rate=2**-8),
        make_agent(dtype=torch.float32, learning_rate=2**-9, temperature_learning_rate=2**-8),
    ]
    scheduled = agents[1]
    scheduled.rates = rates_of(
        small_config(learning_rate=2**-9, learning_rate_end=2**-9), 3, scheduled.device
    )
    for part, start in ((scheduled.actor, 2**-9), (scheduled.critics, 2**-9)):
        part.adam._options["lr"] = scheduled.rates.rate(start)
    for agent in agents:
        streams = SeedStreams((0,))
        for _ in range(5):
            agent.update(*draw_update(streams, torch.float32))
    ours, theirs = (agent.state() for agent in agents)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_agent_with_a_falling_rate_needs_the_number_of_updates():
    with pytest.raises(ValueError, match="updates"):
        make_agent(learning_rate_end=1e-5)


@pytest.mark.parametrize("agent", ["mtsac", "stl"])
def test_an_extended_run_keeps_its_schedule(agent):
    words = [*SMALL, *FALLING, f"agent={agent}", "seeds=[0,1]"]
    whole, extended = learner_of(*words, "steps=12"), learner_of(*words, "steps=100")
    go(whole, 0, 8)
    extended.load_state(whole.state())
    extended.replay.rows.copy_(whole.replay.rows)
    extended.replay.added = whole.replay.added
    go(whole, 8, 16)
    go(extended, 8, 16)
    expected, found = flat(whole), flat(extended)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    parts = getattr(extended.agent, "lanes", extended.agent)
    torch.testing.assert_close(rates(parts)[0], 0.002)


def test_resets_restart_moments_and_not_the_schedule():
    learner = learner_of(*SMALL, *FALLING, "agent.reset_every=3", "steps=15")
    go(learner, 0, 9, seeds=(0,))
    assert learner.agent.critics.adam.count == 1 and learner.updates == 4
    torch.testing.assert_close(rates(learner.agent)[0], 0.01 * (1 - 0.8 * 3 / 10))


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["agent.weight_decay=0.1"], "agent.weight_decay", 0.1),
        (["agent.learning_rate_end=0.1"], "agent.learning_rate_end", 0.1),
        (["agent.optimizer=sgd"], "agent.optimizer", "sgd"),
        (["agent.beta2=1"], "agent.beta2", 1.0),
    ],
)
def test_impossible_options_are_refused(words, key, value):
    with refused(key, value):
        configuration(*SMALL, *words)
