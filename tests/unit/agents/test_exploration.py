"""Noise that is kept for several steps: durations, halves, seeds, state."""

import pytest
import torch

from mtrl_fairgrad.agents import SeedStreams
from mtrl_fairgrad.agents.exploration import NewNoise, RepeatedNoise, exploration_of
from tests.support.errors import refused
from tests.support.small_learner import SMALL, configuration

COPIES, TASKS, ACTION, LONGEST = 4, 3, 2, 5


def made(seeds=(0, 1), longest=LONGEST, copies=COPIES):
    return exploration_of(SeedStreams(seeds), copies, TASKS, ACTION, longest)


def durations(noises):
    """Lengths of all runs of equal noise of `[T, ...]` but the first and the last of each."""
    found = []
    for simulator in noises.flatten(1, -2).unbind(1):
        changed = (simulator[1:] != simulator[:-1]).any(-1).nonzero().flatten()
        found.append(changed.diff())
    return torch.cat(found)


def test_without_repetition_the_numbers_are_those_of_the_streams():
    noise, streams = made(longest=1), SeedStreams((0, 1))
    assert isinstance(noise, NewNoise) and noise.state() == {}
    assert torch.equal(noise.draw(1).squeeze(1), streams.normal(TASKS, ACTION))
    assert torch.equal(noise.draw(2), streams.normal(2, TASKS, ACTION))


def test_durations_follow_the_zeta_distribution_that_ends_at_the_longest():
    """Thousands of durations; longer ones are left out, not cut down to the longest."""
    noise = made()
    found = durations(torch.stack([noise.draw(COPIES) for _ in range(500)]))
    shares = torch.bincount(found, minlength=LONGEST + 1)[1:] / len(found)
    expected = torch.arange(1, LONGEST + 1).float() ** -2
    assert len(found) > 6_000
    torch.testing.assert_close(shares, expected / expected.sum(), rtol=0, atol=0.02)
    assert found.max() == LONGEST


def test_noise_stays_standard_normal():
    noise = made()
    values = torch.stack([noise.draw(COPIES) for _ in range(500)])
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.03


def test_simulators_change_their_noise_apart_from_one_another():
    noise = made()
    noise.draw(COPIES)
    before = noise.noise.clone()
    noise.draw(COPIES)
    changed = (noise.noise != before).any(-1)
    assert changed.any() and not changed.all()
    assert ((noise.noise == before).all(-1) | (noise.noise != before).all(-1)).all()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_each_half_keeps_noise_of_its_own_in_any_order(order):
    noise, found = made(), {}
    for half in order:
        found[half] = noise.draw(COPIES // 2, half)
    first, second = found[0], found[1]
    assert torch.equal(noise.noise, torch.cat([first, second], 1))
    keeps = noise.remaining[:, :2] > 0
    again = noise.draw(COPIES // 2, 0)
    assert torch.equal(noise.noise[:, 2:], second)
    assert keeps.any() and torch.equal(again[keeps], first[keeps])
    assert not torch.isin(again[~keeps], first).any()


def test_a_seed_explores_alone_as_beside_others():
    alone, beside = made((7,)), made((3, 7))
    for _ in range(20):
        assert torch.equal(alone.draw(COPIES)[0], beside.draw(COPIES)[1])


@pytest.mark.parametrize("steps", range(4))
def test_a_restored_state_goes_on_bit_for_bit(steps):
    whole, restored = made(), made()
    for step in range(steps):
        whole.draw(2, step % 2)
    restored.load_state({name: value.clone() for name, value in whole.state().items()})
    restored._streams.load_state(whole._streams.state())
    for step in range(9):
        assert torch.equal(whole.draw(2, step % 2), restored.draw(2, step % 2))


def test_repetition_is_a_class_of_its_own():
    assert isinstance(made(longest=2), RepeatedNoise)


def test_more_than_a_thousand_steps_are_refused():
    with refused("agent.noise_repeat", 1001):
        configuration(*SMALL, "agent.noise_repeat=1001")
