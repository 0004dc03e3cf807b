"""Replay buffer of all seeds and tasks: one preallocated ring on the learner's device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Transition(NamedTuple):
    """One step of E' simulators of each task; each field is `[S, E', K, ...]`."""

    observations: Tensor
    """`[..., O]`."""
    actions: Tensor
    """`[..., A]`, in [−1, 1]."""
    rewards: Tensor
    """`[...]`."""
    next_observations: Tensor
    """`[..., O]`: the true successor, also at the end of an episode."""
    terminated: Tensor
    """`[...]`: 1 where the task itself ended, 0 elsewhere, also at time limits."""
    ended: Tensor
    """`[...]`: 1 where the episode ended, also at time limits."""


class Batch(NamedTuple):
    """Transitions of n ≥ 1 steps that were sampled; each field is `[S, K, B, ...]`."""

    observations: Tensor
    """`[..., O]`."""
    actions: Tensor
    """`[..., A]`, in [−1, 1]."""
    rewards: Tensor
    """`[...]`: the sum of γᵏ·rₖ over the steps."""
    next_observations: Tensor
    """`[..., O]`: the true successor of the last step, also at the end of an episode."""
    terminated: Tensor
    """`[...]`: 1 where the task itself ended in the last step, 0 elsewhere."""
    discounts: Tensor | None = None
    """`[...]`: γᵐ after m steps; None stands for γ everywhere, after one step."""


class ReplayBuffer:
    """The last `capacity` steps of every task of every seed.

    A transition is one row `[observation, action, next observation, reward, terminated]`, so that
    sampling a batch is one gather. With `n_step` > 1 a row has one more column, `begins`: 1 for the
    first transition of an episode. All state is in `rows`, `[capacity, S, K, width]`, and `added`.

    Each task has E simulators, its copies, which take turns in this order: row n, counted from the
    first added, is of copy n % E. So the transition after that of row n is in row n + E. Returns of
    several steps are formed when a batch is sampled. They end with the episode, whether at a
    termination, at a time limit or because it was abandoned, and at the newest row of the copy; the
    value of the last step's next observation counts unless the task terminated.

    Args:
        capacity: steps of each task.
        seeds: S.
        tasks: K.
        observation_dim: O.
        action_dim: A.
        device: where the rows are.
        dtype: floating-point type of the rows.
        copies: E.
        n_step: largest number of steps of a return.
        discount: γ in returns of several steps.

    Raises:
        MemoryError: the rows do not fit; the message contains their size and how to reduce it.
    """

    def __init__(
        self,
        capacity: int,
        seeds: int,
        tasks: int,
        observation_dim: int,
        action_dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        copies: int = 1,
        n_step: int = 1,
        discount: float = 1.0,
    ) -> None:
        self.capacity, self.copies, self.n_step = capacity, copies, n_step
        self._widths = row_parts(observation_dim, action_dim, n_step)
        shape = (capacity, seeds, tasks, sum(self._widths))
        try:
            self.rows = torch.empty(shape, device=device, dtype=dtype)
        except RuntimeError as error:
            gib = torch.tensor(shape).prod().item() * dtype.itemsize / 2**30
            raise MemoryError(
                f"agent.buffer_size={capacity} needs {gib:.1f} GiB for {seeds} seeds × {tasks} "
                f"tasks, which {device} does not have: "
                "choose a smaller agent.buffer_size or fewer seeds."
            ) from error
        self._columns = torch.arange(seeds * tasks, device=device).view(seeds, tasks, 1)
        powers = [discount**step for step in range(n_step + 1)]
        self._powers = torch.tensor(powers, device=device, dtype=dtype)
        # On the device as well, because a CUDA graph would keep the number of its capture.
        self._head = torch.zeros((), dtype=torch.int64, device=device)
        self.added = 0

    @property
    def added(self) -> int:
        """Number of rows added, equal for all tasks; row n, from 0, is stored at n % capacity."""
        return self._added

    @added.setter
    def added(self, number: int) -> None:
        self._added = number
        self._head.fill_(number)

    @property
    def size(self) -> int:
        """Number of rows that can be sampled."""
        return min(self.added, self.capacity)

    def next_copies(self, count: int) -> slice:
        """Return which copies the next `count` rows are of.

        Raises:
            ValueError: they would be of more than one turn of all copies.
        """
        first = self.added % self.copies
        if first + count > self.copies:
            raise ValueError(
                f"{count} rows after {self.added} are not of one turn of {self.copies} copies: "
                "add the copies' steps in their order, at most all of them at once."
            )
        return slice(first, first + count)

    def add(self, step: Transition, begins: Tensor | None = None) -> None:
        """Store one step of E' copies of every task, over the oldest ones if full.

        Args:
            step: of the copies whose turn it is, see `next_copies`.
            begins: `[S, E', K]`, 1 for the first step of an episode; only for `n_step` > 1.
        """
        fields = [step.observations, step.actions, step.next_observations]
        fields += [field.unsqueeze(-1) for field in (step.rewards, step.terminated)]
        if begins is not None and self.n_step > 1:
            fields.append(begins.unsqueeze(-1))
        rows = torch.cat([field.to(self.rows.dtype) for field in fields], dim=-1).transpose(0, 1)
        count = len(rows)
        self.next_copies(count)
        start = self.added % self.capacity
        until_end = min(count, self.capacity - start)
        self.rows[start : start + until_end] = rows[:until_end]
        if until_end < count:
            self.rows[: count - until_end] = rows[until_end:]
        self.added += count

    def sample(self, indices: Tensor) -> Batch:
        """Return the transitions that begin in these rows.

        Args:
            indices: int64 `[S, K, B]`, places from 0 to size − 1.
        """
        observations, actions, next_observations, rewards, terminated, *begins = self._at(indices)
        if not begins:
            rewards, terminated = rewards.squeeze(-1), terminated.squeeze(-1)
            return Batch(observations, actions, rewards, next_observations, terminated)
        returns, steps = self._returns(indices, rewards.squeeze(-1))
        last = (indices + (steps - 1) * self.copies) % self.capacity
        _, _, next_observations, _, terminated, _ = self._at(last)
        discounts = self._powers.index_select(0, steps.flatten()).view_as(returns)
        return Batch(
            observations, actions, returns, next_observations, terminated.squeeze(-1), discounts
        )

    def _at(self, places: Tensor) -> tuple[Tensor, ...]:
        """Return the fields of the rows at places `[S, K, B]`, each `[S, K, B, ...]`."""
        return self._gather(self.rows, places).split(self._widths, dim=-1)

    def _gather(self, rows: Tensor, places: Tensor) -> Tensor:
        """Return `[S, K, B, ...]` from `[capacity, S, K, ...]`."""
        columns = self.rows.shape[1] * self.rows.shape[2]
        selected = (places * columns + self._columns).flatten()
        return rows.flatten(0, 2).index_select(0, selected).view(*places.shape, -1)

    def _returns(self, indices: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Return the discounted sums of rewards and over how many steps, 1 to `n_step`."""
        newer = (self._head - 1 - indices) % self.capacity  # rows added after each one
        steps, goes_on = torch.ones_like(indices), torch.ones_like(indices, dtype=torch.bool)
        for step in range(1, self.n_step):
            ahead = step * self.copies
            # All but the last three columns are of no use here.
            later = self._gather(self.rows[..., -3:], (indices + ahead) % self.capacity)
            reward, _, begins = later.unbind(-1)
            goes_on = goes_on & (newer >= ahead) & (begins == 0)
            rewards = rewards + torch.where(goes_on, self._powers[step] * reward, 0.0)
            steps = steps + goes_on
        return rewards, steps


def row_parts(observation_dim: int, action_dim: int, n_step: int) -> list[int]:
    """Return the widths of a row's parts; see `ReplayBuffer`."""
    return [observation_dim, action_dim, observation_dim, 1, 1, *([1] if n_step > 1 else [])]
