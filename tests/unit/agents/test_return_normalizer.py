"""Rewards are scaled by the discounted returns of their task, each simulator's kept apart."""

import itertools
import math

import pytest
import torch

from mtrl_fairgrad.agents import ReturnNormalizer

SEEDS, COPIES, TASKS = 2, 4, 3
DISCOUNT, V_MAX, TARGET_ENTROPY = 0.9, 3.0, -2.0


def normalizer(seeds=SEEDS, copies=COPIES, discount=DISCOUNT, target_entropy=TARGET_ENTROPY):
    return ReturnNormalizer(seeds, copies, TASKS, discount, V_MAX, target_entropy)


def experience(steps):
    """Rewards of different sizes and beginnings of episodes, each `[steps, S, E, K]`."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([0.01, 1.0, 500.0])
    rewards = torch.randn(steps, SEEDS, COPIES, TASKS, generator=generator) * sizes + sizes / 2
    begins = torch.rand(steps, SEEDS, COPIES, TASKS, generator=generator) < 0.1
    begins[0] = True
    return rewards, begins


def fed(rewards, begins, parts=2):
    """A normalizer after all steps, in as many parts of the copies as stated."""
    made, each = normalizer(*rewards.shape[1:3]), rewards.shape[2] // parts
    for step, part in itertools.product(range(len(rewards)), range(parts)):
        copies = slice(part * each, (part + 1) * each)
        made.update(rewards[step, :, copies], begins[step, :, copies], copies)
    return made


def returns_of(rewards, begins):
    """All values of the discounted return of one simulator, computed one by one."""
    current, values = 0.0, []
    for reward, begin in zip(rewards.tolist(), begins.tolist(), strict=True):
        current = reward if begin else DISCOUNT * current + reward
        values.append(current)
    return values


def offline_scale(values, temperature):
    """The scale from all values of a task's returns."""
    deviation = torch.tensor(values, dtype=torch.float64).std(correction=0).item()
    bonus = temperature * abs(TARGET_ENTROPY) / (1 - DISCOUNT)
    return max(deviation, max(map(abs, values)) / (V_MAX - bonus))


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("temperature", [1e-9, 0.05, 0.07])
def test_the_scale_equals_an_offline_computation_of_each_simulator(parts, temperature):
    rewards, begins = experience(60)
    scale = fed(rewards, begins, parts).scale(
        torch.full((SEEDS, TASKS), temperature, dtype=torch.float64)
    )
    for s, k in itertools.product(range(SEEDS), range(TASKS)):
        values = [
            value
            for e in range(COPIES)
            for value in returns_of(rewards[:, s, e, k], begins[:, s, e, k])
        ]
        assert scale[s, k].item() == pytest.approx(offline_scale(values, temperature), rel=1e-12)


def test_one_return_mixed_over_simulators_would_have_another_scale():
    """Simulators whose rewards have different signs would cancel each other."""
    rewards, begins = experience(60)
    rewards = rewards.abs() * torch.tensor([1.0, -1.0, 1.0, -1.0]).unsqueeze(-1)
    scale = fed(rewards, begins).scale(torch.full((SEEDS, TASKS), 1e-9))
    mixed = returns_of(rewards[:, 0, :, 1].flatten(), begins[:, 0, :, 1].flatten())
    assert scale[0, 1].item() > 1.5 * offline_scale(mixed, 1e-9)


def test_a_constant_reward_leads_to_its_infinite_sum():
    """The return tends to r / (1 − γ), whose scale makes values v_max."""
    made = normalizer(1, 1)
    rewards, begins = torch.full((1, 1, TASKS), 2.0), torch.ones(1, 1, TASKS, dtype=torch.bool)
    for step in range(800):
        made.update(rewards, begins & (step == 0), slice(0, 1))
    expected = 2 / (1 - DISCOUNT) / V_MAX
    assert made.scale(torch.full((1, TASKS), 1e-12))[0, 0].item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.001, 0.05, 0.075])
def test_returns_and_the_entropy_bonus_fit_the_range_together(temperature):
    rewards, begins = experience(60)
    temperatures = torch.full((SEEDS, TASKS), temperature, dtype=torch.float64)
    scale = fed(rewards, begins).scale(temperatures)
    bonus = temperature * abs(TARGET_ENTROPY) / (1 - DISCOUNT)
    for s, k in itertools.product(range(SEEDS), range(TASKS)):
        largest = max(
            abs(value)
            for e in range(COPIES)
            for value in returns_of(rewards[:, s, e, k], begins[:, s, e, k])
        )
        assert largest / scale[s, k].item() + bonus <= V_MAX * (1 + 1e-12)


def test_a_bonus_beyond_the_range_counts_half_of_it():
    rewards, begins = experience(20)
    made = fed(rewards, begins)
    half = made.scale(torch.full((SEEDS, TASKS), 0.075, dtype=torch.float64))
    assert torch.equal(made.scale(torch.full((SEEDS, TASKS), 1e6, dtype=torch.float64)), half)
    assert normalizer(discount=1.0).scale(torch.ones(SEEDS, TASKS)).isfinite().all()


def test_rewards_are_divided_and_keep_sign_and_type():
    rewards, begins = experience(20)
    made, temperature = fed(rewards, begins), torch.full((SEEDS, TASKS), 0.1)
    sampled = torch.randn(SEEDS, TASKS, 5)
    result = made.normalize(sampled, temperature)
    assert result.dtype == torch.float32
    expected = sampled / made.scale(temperature).unsqueeze(-1)
    torch.testing.assert_close(result, expected.float())


def test_tasks_without_rewards_are_left_at_zero():
    made = normalizer()
    zeros = torch.zeros(SEEDS, COPIES, TASKS)
    made.update(zeros, zeros == 0, slice(0, COPIES))
    result = made.normalize(torch.zeros(SEEDS, TASKS, 2), torch.ones(SEEDS, TASKS))
    assert torch.equal(result, torch.zeros(SEEDS, TASKS, 2))


def test_a_seed_is_scaled_with_others_as_it_is_alone():
    rewards, begins = experience(40)
    together, alone = fed(rewards, begins), fed(rewards[:, 1:], begins[:, 1:])
    temperature = torch.full((SEEDS, TASKS), 0.1)
    assert torch.equal(together.scale(temperature)[1:], alone.scale(temperature[1:]))


def test_a_restored_normalizer_continues_bit_for_bit():
    rewards, begins = experience(40)
    whole, restored = fed(rewards[:20], begins[:20]), normalizer()
    restored.load_state({name: value.clone() for name, value in whole.state().items()})
    for made, step in itertools.product((whole, restored), range(20, 40)):
        made.update(rewards[step], begins[step], slice(0, COPIES))
    for name, value in whole.state().items():
        assert torch.equal(value, restored.state()[name]), name
    assert math.isfinite(value.sum().item())


def test_a_reward_that_is_not_finite_does_not_spoil_later_ones():
    rewards, begins = experience(9)
    begins[5] = True
    rewards[3, 1, 0, 2] = torch.nan
    assert fed(rewards, begins).scale(torch.ones(SEEDS, TASKS)).isfinite().all()
