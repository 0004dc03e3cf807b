"""Replay buffer of all seeds and tasks: one preallocated ring on the learner's device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Transitions; each field is `[S, K, B, ...]`, or `[S, K, ...]` for one step of all tasks."""

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


class ReplayBuffer:
    """The last `capacity` steps of every task of every seed.

    A transition is one row `[observation, action, next observation, reward, terminated]`, so that
    sampling a batch is one gather. All state is in `rows`, `[capacity, S, K, 2·O + A + 2]`, and
    `added`.

    Args:
        capacity: steps of each task.
        seeds: S.
        tasks: K.
        observation_dim: O.
        action_dim: A.
        device: where the rows are.
        dtype: floating-point type of the rows.

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
    ) -> None:
        self.capacity = capacity
        self.added = 0
        """Number of steps added, equal for all tasks; step n, from 0, is stored at n % capacity."""
        self._widths = (observation_dim, action_dim, observation_dim, 1, 1)
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

    @property
    def size(self) -> int:
        """Number of steps that can be sampled."""
        return min(self.added, self.capacity)

    def add(self, step: Batch) -> None:
        """Store one step of every task, fields `[S, K, ...]`, over the oldest one if full."""
        fields = (
            step.observations,
            step.actions,
            step.next_observations,
            step.rewards,
            step.terminated,
        )
        parts = [field if field.ndim == 3 else field.unsqueeze(-1) for field in fields]
        position = self.added % self.capacity
        self.rows[position] = torch.cat([part.to(self.rows.dtype) for part in parts], dim=-1)
        self.added += 1

    def sample(self, indices: Tensor) -> Batch:
        """Return the transitions at `indices`, int64 `[S, K, B]` from 0 to size − 1."""
        flat = self.rows.view(-1, self.rows.shape[-1])
        columns = self.rows.shape[1] * self.rows.shape[2]
        selected = flat.index_select(0, (indices * columns + self._columns).flatten())
        parts = selected.view(*indices.shape, -1).split(self._widths, dim=-1)
        observations, actions, next_observations, rewards, terminated = parts
        return Batch(
            observations,
            actions,
            rewards.squeeze(-1),
            next_observations,
            terminated.squeeze(-1),
        )
