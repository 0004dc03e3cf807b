"""The replay buffer keeps the newest steps, samples each task from its own, and forms returns."""

import itertools

import pytest
import torch

from mtrl_fairgrad.agents import ReplayBuffer, Transition

SEEDS, TASKS, OBSERVATION, ACTION = 2, 3, 4, 2
DISCOUNT = 0.9


def step(number, seeds=SEEDS):
    """A step whose entries encode its number, seed and task."""
    label = torch.arange(seeds * TASKS).view(seeds, 1, TASKS) + 100.0 * number
    wide = label.unsqueeze(-1)
    observation = wide.expand(-1, -1, -1, OBSERVATION)
    actions = wide.expand(-1, -1, -1, ACTION) + 0.25
    return Transition(
        observation, actions, label + 0.5, observation + 1, label % 2, torch.zeros_like(label)
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
    assert batch.discounts is None


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


def test_steps_that_are_not_of_one_turn_of_the_copies_are_refused():
    replay = ReplayBuffer(9, SEEDS, TASKS, OBSERVATION, ACTION, copies=2)
    replay.add(step(0))
    two = Transition(*(torch.cat([field, field], 1) for field in step(1)))
    with pytest.raises(ValueError, match="not of one turn of 2 copies"):
        replay.add(two)


# ---- several copies and returns of several steps ----


class Simulators:
    """Random episodes of E copies of each task and seed, and a record of every copy's steps.

    Args:
        copies: E.
        generator: of the rewards and ends.
        restarts: turns after which all episodes are abandoned.
    """

    def __init__(self, copies, generator, restarts=()):
        self.copies, self.generator, self.restarts = copies, generator, restarts
        self.begins = torch.ones(SEEDS, copies, TASKS)
        self.record = [[] for _ in range(copies)]
        """Copy -> its steps in order, each with what begins and where it lies in the ring."""

    def draw(self, *shape):
        return torch.rand(SEEDS, *shape, generator=self.generator, dtype=torch.float64)

    def fill(self, replay, turns):
        parts = 2 if self.copies > 1 else 1
        each = self.copies // parts
        for turn, part in itertools.product(range(turns), range(parts)):
            if turn in self.restarts and part == 0:
                self.begins.fill_(1)
            of_part = slice(part * each, (part + 1) * each)
            ends = self.draw(each, TASKS)
            made = Transition(
                self.draw(each, TASKS, OBSERVATION),
                self.draw(each, TASKS, ACTION),
                self.draw(each, TASKS),
                self.draw(each, TASKS, OBSERVATION),
                (ends < 0.15).double(),
                (ends < 0.3).double(),
            )
            begins = self.begins[:, of_part].clone()
            for copy in range(each):
                fields = Transition(*(field[:, copy] for field in made))
                row = replay.added + copy
                self.record[part * each + copy].append((fields, begins[:, copy], row))
            replay.add(made, begins)
            self.begins[:, of_part] = made.ended.float()

    def expected(self, row, s, k, n_step):
        """Form the return of the transition in a row from the record, one step after the other."""
        steps = self.record[row % self.copies]
        start = next(i for i, (_, _, place) in enumerate(steps) if place == row)
        total = 0.0
        for length, (fields, begins, _) in enumerate(steps[start : start + n_step]):
            if length and begins[s, k]:
                break
            total += DISCOUNT**length * fields.rewards[s, k].item()
            last, discount = fields, DISCOUNT ** (length + 1)
            if fields.ended[s, k]:
                break
        return total, last.next_observations[s, k], last.terminated[s, k].item(), discount


@pytest.mark.parametrize("copies", [1, 2, 4])
@pytest.mark.parametrize("n_step", [2, 3, 5])
@pytest.mark.parametrize(("capacity", "turns"), [(40, 9), (40, 31), (37, 40), (6, 13)])
def test_returns_equal_those_formed_step_by_step(copies, n_step, capacity, turns):
    generator = torch.Generator().manual_seed(copies + 10 * n_step + turns)
    sizes = (capacity, SEEDS, TASKS, OBSERVATION, ACTION)
    replay = ReplayBuffer(
        *sizes, dtype=torch.float64, copies=copies, n_step=n_step, discount=DISCOUNT
    )
    simulators = Simulators(copies, generator, restarts=(4, turns - 2))
    simulators.fill(replay, turns)
    indices = torch.arange(replay.size).expand(SEEDS, TASKS, -1)
    batch, cut = replay.sample(indices), set()
    for s, k, place in itertools.product(range(SEEDS), range(TASKS), range(replay.size)):
        newest = replay.added - 1
        row = newest - (newest - place) % capacity
        total, following, terminated, discount = simulators.expected(row, s, k, n_step)
        assert batch.rewards[s, k, place].item() == pytest.approx(total, rel=1e-12)
        assert torch.equal(batch.next_observations[s, k, place], following)
        assert batch.terminated[s, k, place].item() == terminated
        assert batch.discounts[s, k, place].item() == pytest.approx(discount, rel=1e-12)
        cut.add(round(discount, 6))
    assert {round(DISCOUNT, 6), round(DISCOUNT**2, 6)} <= cut or capacity < 10
    one_step = replay.rows[:, 0, 0, :OBSERVATION]
    assert torch.equal(batch.observations[0, 0], one_step[: replay.size])


def hand_made(rewards, terminated, begins, capacity=8, copies=1, n_step=3):
    """A ring of one seed and task whose observations are the numbers of the rows."""
    replay = ReplayBuffer(
        capacity, 1, 1, 1, 1, dtype=torch.float64, copies=copies, n_step=n_step, discount=0.5
    )
    for row, (reward, end, begin) in enumerate(zip(rewards, terminated, begins, strict=True)):
        one = torch.full((1, 1, 1), float(row), dtype=torch.float64)
        wide = one.unsqueeze(-1)
        replay.add(
            Transition(
                wide,
                wide,
                torch.full_like(one, reward),
                wide + 1,
                torch.full_like(one, end),
                torch.zeros_like(one),
            ),
            torch.full_like(one, begin),
        )
    return replay


def sampled(replay, row):
    """Return, termination and next observation of a row, and the discount after it."""
    batch = replay.sample(torch.tensor([[[row % replay.capacity]]]))
    return tuple(
        field.item()
        for field in (batch.rewards, batch.terminated, batch.next_observations, batch.discounts)
    )


def test_three_step_returns_equal_a_hand_computation():
    """Rows 0 to 9 in a ring of 8: the task ends in row 3, a time limit is reached in row 6."""
    rewards = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    ended = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    begins = [1, 0, 0, 0, 1, 0, 0, 1, 0, 0]
    replay = hand_made(rewards, ended, begins)
    assert sampled(replay, 2) == (4 + 8 / 2, 1, 4, 1 / 4), "cut by the termination"
    assert sampled(replay, 3) == (8, 1, 4, 1 / 2)
    assert sampled(replay, 4) == (16 + 32 / 2 + 64 / 4, 0, 7, 1 / 8)
    assert sampled(replay, 5) == (32 + 64 / 2, 0, 7, 1 / 4), "cut by the time limit: bootstrap"
    assert sampled(replay, 6) == (64, 0, 7, 1 / 2)
    assert sampled(replay, 7) == (128 + 256 / 2 + 512 / 4, 0, 10, 1 / 8), "across the wrap"
    assert sampled(replay, 8) == (256 + 512 / 2, 0, 10, 1 / 4), "cut at the newest row"
    assert sampled(replay, 9) == (512, 0, 10, 1 / 2)


def test_returns_of_two_copies_equal_a_hand_computation():
    """The copies' rows alternate; the first copy's episode is abandoned after row 2."""
    replay = hand_made([1, 10, 2, 20, 4, 40], [0] * 6, [1, 1, 0, 0, 1, 0], copies=2)
    assert sampled(replay, 0) == (1 + 2 / 2, 0, 3, 1 / 4)
    assert sampled(replay, 1) == (10 + 20 / 2 + 40 / 4, 0, 6, 1 / 8)
    assert sampled(replay, 2) == (2, 0, 3, 1 / 2)
    assert sampled(replay, 4) == (4, 0, 5, 1 / 2)


def test_a_ring_that_is_filled_from_a_checkpoint_knows_its_newest_row():
    whole = hand_made([1, 2, 4, 8], [0] * 4, [1, 0, 0, 0])
    restored = hand_made([], [], [])
    restored.rows.copy_(whole.rows)
    restored.added = whole.added
    assert [sampled(restored, row) for row in range(4)] == [sampled(whole, row) for row in range(4)]
