"""The replay buffer keeps the newest steps and samples each task from its own."""

import pytest
import torch

from mtrl_fairgrad.agents import Batch, ReplayBuffer

SEEDS, TASKS, OBSERVATION, ACTION = 2, 3, 4, 2


def step(number, seeds=SEEDS):
    """A step whose entries encode its number, seed and task."""
    label = torch.arange(seeds * TASKS).view(seeds, TASKS) + 100.0 * number
    wide = label.unsqueeze(-1)
    observation = wide.expand(-1, -1, OBSERVATION)
    return Batch(
        observation, wide.expand(-1, -1, ACTION) + 0.25, label + 0.5, observation + 1, label % 2
    )


def filled(steps, capacity=5):
    replay = ReplayBuffer(capacity, SEEDS, TASKS, OBSERVATION, ACTION)
    for number in range(steps):
        replay.add(step(number))
    return replay


def test_sampling_returns_what_was_stored_for_that_seed_and_task():
    replay = filled(4)
    indices = torch.randint(4, (SEEDS, TASKS, 7), generator=torch.Generator().manual_seed(0))
    batch = replay.sample(indices)
    expected = torch.arange(SEEDS * TASKS).view(SEEDS, TASKS, 1) + 100.0 * indices
    torch.testing.assert_close(
        batch.observations, expected.unsqueeze(-1).expand(-1, -1, -1, OBSERVATION)
    )
    torch.testing.assert_close(
        batch.actions, (expected + 0.25).unsqueeze(-1).expand(-1, -1, -1, ACTION)
    )
    torch.testing.assert_close(batch.rewards, expected + 0.5)
    torch.testing.assert_close(batch.next_observations[..., 0], expected + 1)
    torch.testing.assert_close(batch.terminated, expected % 2)


def test_the_oldest_step_is_overwritten():
    replay = filled(7, capacity=5)
    assert replay.size == 5
    everything = replay.sample(torch.arange(5).expand(SEEDS, TASKS, 5))
    numbers = (everything.rewards[0, 0] // 100).tolist()
    assert numbers == [5, 6, 2, 3, 4], (
        "step n lies at place n % capacity, where a checkpoint looks for it"
    )
    assert replay.added == 7


def test_a_buffer_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(MemoryError, match=r"agent.buffer_size=1000000000000 needs .* GiB"):
        ReplayBuffer(10**12, 10, 50, 89, 4)
