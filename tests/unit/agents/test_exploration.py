"""Random actions that last: how often, how long, which simulators, seeds, state."""

import numpy as np
import pytest
import torch

from mtrl_fairgrad.agents.exploration import LONGEST, RandomActions
from tests.support.errors import refused
from tests.support.small_learner import SMALL, configuration

COPIES, TASKS, ACTION, RATE = 4, 3, 2, 0.1
POLICY = np.full((2, COPIES // 2, TASKS, ACTION), 0.5, np.float32)


def made(seeds=(0, 1), copies=COPIES, rate=RATE):
    return RandomActions(seeds, copies, TASKS, ACTION, rate)


def explored(exploration, steps, actions=POLICY, half=1):
    """Actions `[T, S, E', K, A]`, and where they are not the policy's, `[T, S, E', K]`."""
    found = np.stack([exploration.replace(actions, half) for _ in range(steps)])
    return found, (found != actions).any(-1)


def test_the_first_half_of_the_copies_follows_the_policy():
    exploration = made()
    assert exploration.replace(POLICY, 0) is POLICY
    assert explored(exploration, 100)[1].any((0, 1)).all(), "and each of the second half explores"
    assert explored(made(copies=1), 100, POLICY[:, :1], 0)[1].any()


def test_actions_last_for_lengths_that_are_equally_likely():
    exploration, held = made(rate=1.0), []
    for _ in range(4_000):
        begins = exploration.remaining == 0
        exploration.replace(POLICY, 1)
        held.append((exploration.remaining + 1)[begins])
    lengths = torch.cat(held)
    shares = torch.bincount(lengths, minlength=LONGEST + 1)[1:] / len(lengths)
    assert len(lengths) > 7_000 and len(shares) == LONGEST
    torch.testing.assert_close(shares, torch.full((LONGEST,), 1 / LONGEST), rtol=0, atol=0.02)


def test_an_action_is_repeated_until_its_steps_are_over():
    exploration = made()
    for _ in range(100):
        before, left = exploration.actions.clone(), exploration.remaining.clone()
        found = exploration.replace(POLICY, 1)
        assert np.array_equal(found[left > 0], before[left > 0].numpy())
        assert (exploration.remaining[left > 0] == left[left > 0] - 1).all()


def test_the_rate_is_that_of_beginning_in_a_step_of_the_policy():
    exploration, begun, free = made(), 0, 0
    for _ in range(3_000):
        could = exploration.remaining == 0
        found = exploration.replace(POLICY, 1)
        begun += int(((found != POLICY).any(-1) & could.numpy()).sum())
        free += int(could.sum())
    assert begun / free == pytest.approx(RATE, abs=0.01)


def test_random_actions_are_uniform():
    found, random = explored(made(rate=1.0), 2_000)
    assert random.all()
    values = found[:: 2 * LONGEST]
    assert abs(values.mean()) < 0.03 and values.var() == pytest.approx(1 / 3, abs=0.03)
    assert values.min() < -0.9 and values.max() > 0.9 and np.abs(found).max() <= 1


def test_a_seed_explores_alone_as_beside_others():
    alone, beside = made((7,)), made((3, 7))
    found, expected = explored(alone, 50, POLICY[:1])[0], explored(beside, 50)[0]
    assert np.array_equal(found[:, 0], expected[:, 1]) and not np.array_equal(
        expected[:, 0], expected[:, 1]
    )


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_a_restored_state_goes_on_bit_for_bit(steps):
    whole, restored = made(), made()
    explored(whole, steps)
    restored.load_state({name: value.clone() for name, value in whole.state().items()})
    assert np.array_equal(explored(whole, 30)[0], explored(restored, 30)[0])


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_rate_that_is_no_probability_is_refused(value):
    with refused("agent.exploration_rate", value):
        configuration(*SMALL, f"agent.exploration_rate={value}")
