"""The ring keeps the newest steps, samples each task from its own, and comes back from its state."""

import pytest
import torch

from agents import Batch, Replay

SEEDS, TASKS, OBSERVATION, ACTION = 2, 3, 4, 2


def step(number, seeds=SEEDS):
    """A step whose every entry tells its number, seed and task."""
    label = torch.arange(seeds * TASKS).view(seeds, TASKS) + 100.0 * number
    wide = label.unsqueeze(-1)
    observation = wide.expand(-1, -1, OBSERVATION)
    return Batch(observation, wide.expand(-1, -1, ACTION) + 0.25, label + 0.5, observation + 1, label % 2)


def filled(steps, capacity=5):
    replay = Replay(capacity, SEEDS, TASKS, OBSERVATION, ACTION)
    for number in range(steps):
        replay.add(step(number))
    return replay


def test_sampling_returns_what_was_stored_for_that_seed_and_task():
    replay = filled(4)
    indices = torch.randint(4, (SEEDS, TASKS, 7), generator=torch.Generator().manual_seed(0))
    batch = replay.sample(indices)
    expected = torch.arange(SEEDS * TASKS).view(SEEDS, TASKS, 1) + 100.0 * indices
    torch.testing.assert_close(batch.observations, expected.unsqueeze(-1).expand(-1, -1, -1, OBSERVATION))
    torch.testing.assert_close(batch.actions, (expected + 0.25).unsqueeze(-1).expand(-1, -1, -1, ACTION))
    torch.testing.assert_close(batch.rewards, expected + 0.5)
    torch.testing.assert_close(batch.next_observations[..., 0], expected + 1)
    torch.testing.assert_close(batch.terminated, expected % 2)


def test_the_oldest_step_gives_way():
    replay = filled(7, capacity=5)
    assert replay.size == 5
    everything = replay.sample(torch.arange(5).expand(SEEDS, TASKS, 5))
    numbers = (everything.rewards[0, 0] // 100).tolist()
    assert sorted(numbers) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("steps", [0, 3, 5, 8])
def test_a_restored_ring_goes_on_as_the_old_one(steps):
    replay = filled(steps)
    state = {name: value.clone() for name, value in replay.state().items()}
    restored = Replay(5, SEEDS, TASKS, OBSERVATION, ACTION)
    restored.load_state(state)
    for ring in (replay, restored):
        ring.add(step(50))
    assert restored.size == replay.size
    assert torch.equal(restored.rows[: restored.size], replay.rows[: replay.size])


def test_another_shape_is_refused():
    state = filled(3).state()
    with pytest.raises(ValueError, match="configuration the run was started with"):
        Replay(5, SEEDS + 1, TASKS, OBSERVATION, ACTION).load_state(state)
    with pytest.raises(ValueError, match="configuration the run was started with"):
        Replay(2, SEEDS, TASKS, OBSERVATION, ACTION).load_state(state)


def test_a_buffer_beyond_memory_says_so():
    with pytest.raises(MemoryError, match=r"agent.buffer_size=1000000000000 needs .* GiB"):
        Replay(10**12, 10, 50, 89, 4)
