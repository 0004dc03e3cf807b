"""Rewards are divided by their task's running standard deviation, each seed's by its own."""

import math

import pytest
import torch

from mtrl_fairgrad.agents import RewardNormalizer, SeedStreams

SEEDS, TASKS = 2, 3


def stream(steps, seeds=range(SEEDS)):
    """Rewards of very different sizes, `[steps, S, K]`."""
    sizes = torch.tensor([0.01, 1.0, 500.0])
    return (SeedStreams(tuple(seeds)).normal(steps, TASKS) * sizes + sizes / 2).transpose(0, 1)


def normalized(normalizer, step):
    """Normalise one reward of every task, `[S, K]`."""
    return normalizer.normalize(step.unsqueeze(1)).squeeze(1)


def by_hand(rewards, rate):
    """Running averages of one task's rewards, computed one by one."""
    mean, variance, result = 0.0, 1.0, []
    for reward in rewards:
        mean = (1 - rate) * mean + rate * reward
        variance = (1 - rate) * variance + rate * (reward - mean) ** 2
        result.append(reward / (math.sqrt(variance) + 1e-8))
    return result


def test_normalisation_equals_the_running_averages_computed_one_by_one():
    rewards, normalizer = stream(300).double(), RewardNormalizer(SEEDS, TASKS)
    result = torch.stack([normalized(normalizer, step) for step in rewards])
    for s in range(SEEDS):
        for k in range(TASKS):
            expected = torch.tensor(by_hand(rewards[:, s, k].tolist(), 0.001)).double()
            torch.testing.assert_close(result[:, s, k], expected)


def test_normalised_rewards_have_unit_deviation_and_are_not_centred():
    normalizer = RewardNormalizer(SEEDS, TASKS, rate=0.01)
    result = torch.stack([normalized(normalizer, step) for step in stream(3000)])[-1500:]
    torch.testing.assert_close(result.std(0), torch.ones(SEEDS, TASKS), rtol=0.15, atol=0)
    torch.testing.assert_close(result.mean(0), torch.full((SEEDS, TASKS), 0.5), rtol=0, atol=0.15)


def test_a_seed_is_normalised_with_others_as_it_is_alone():
    together, alone = RewardNormalizer(SEEDS, TASKS), RewardNormalizer(1, TASKS)
    for step in stream(50):
        assert torch.equal(normalized(together, step)[1:], normalized(alone, step[1:]))


def test_copies_are_normalised_one_after_the_other():
    together, alone = RewardNormalizer(SEEDS, TASKS), RewardNormalizer(SEEDS, TASKS)
    rewards = stream(6)
    expected = torch.stack([normalized(alone, step) for step in rewards], dim=1)
    assert torch.equal(together.normalize(rewards.transpose(0, 1)), expected)


def test_dtype_and_argument_are_kept():
    step = stream(1)[0]
    before = step.clone()
    assert normalized(RewardNormalizer(SEEDS, TASKS), step).dtype == torch.float32 and torch.equal(
        step, before
    )


def test_a_restored_normalizer_continues_bit_for_bit():
    normalizer, restored = RewardNormalizer(SEEDS, TASKS), RewardNormalizer(SEEDS, TASKS)
    rewards = stream(40)
    for step in rewards[:20]:
        normalized(normalizer, step)
    restored.load_state({name: value.clone() for name, value in normalizer.state().items()})
    for step in rewards[20:]:
        assert torch.equal(normalized(normalizer, step), normalized(restored, step))


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="configuration the run was started with"):
        RewardNormalizer(1, TASKS).load_state(RewardNormalizer(SEEDS, TASKS).state())


def test_a_reward_that_is_not_finite_does_not_spoil_later_ones():
    normalizer, rewards = RewardNormalizer(SEEDS, TASKS), stream(6)
    rewards[2, 1, 0] = torch.nan
    found = torch.stack([normalized(normalizer, step) for step in rewards])
    assert torch.equal(found.isfinite(), rewards.isfinite())
