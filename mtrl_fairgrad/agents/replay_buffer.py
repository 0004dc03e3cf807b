"""Replay buffer of all seeds and tasks: one preallocated ring on the learner's device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Transitions, each field `[S, K, B, ...]` (or `[S, K, ...]` when one step is added)."""

    observations: Tensor
    """`[..., O]`."""
    actions: Tensor
    """`[..., A]`, in [−1, 1]."""
    rewards: Tensor
    """`[...]`."""
    next_observations: Tensor
    """`[..., O]`: the true successor, also where an episode ended there."""
    terminated: Tensor
    """`[...]`, 1 where the task itself ended (no bootstrapping), 0 elsewhere, time limits included.
    """


class ReplayBuffer:
    """The last `capacity` steps of every task of every seed.

    A transition is one row `[observation, action, next observation, reward, terminated]`, so that a
    sampled batch is one gather: `rows` is `[capacity, S, K, 2·O + A + 2]`, float32 unless told
    otherwise. `rows` and `added` are all its state.

    Raises:
        MemoryError: the buffer does not fit; the message says how large it is and how to shrink it.
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
        """Steps stored so far, the same for every task: number n, from 0, is or was at place n %
        capacity.
        """
        self._widths = (observation_dim, action_dim, observation_dim, 1, 1)
        shape = (capacity, seeds, tasks, sum(self._widths))
        try:
            self.rows = torch.empty(shape, device=device, dtype=dtype)
        except RuntimeError as error:
            gib = torch.tensor(shape).prod().item() * dtype.itemsize / 2**30
            raise MemoryError(
                f"agent.buffer_size={capacity} needs {gib:.1f} GiB for {seeds} seeds × {tasks} "
                f"tasks on {device}, "
                "which it does not have: choose a smaller agent.buffer_size or fewer seeds."
            ) from error
        self._lanes = torch.arange(seeds * tasks, device=device).view(seeds, tasks, 1)

    @property
    def size(self) -> int:
        """Filled steps."""
        return min(self.added, self.capacity)

    def add(self, step: Batch) -> None:
        """Store one step of every task, fields `[S, K, ...]`; the oldest step gives way when the
        ring is full.
        """
        parts = (
            step.observations,
            step.actions,
            step.next_observations,
            step.rewards,
            step.terminated,
        )
        columns = [part if part.ndim == 3 else part.unsqueeze(-1) for part in parts]
        place = self.added % self.capacity
        self.rows[place] = torch.cat([column.to(self.rows.dtype) for column in columns], dim=-1)
        self.added += 1

    def sample(self, indices: Tensor) -> Batch:
        """The transitions at `indices`, int64 `[S, K, B]` in 0 … size − 1: as many of every task."""
        flat = self.rows.view(-1, self.rows.shape[-1])
        lanes = self.rows.shape[1] * self.rows.shape[2]
        rows = flat.index_select(0, (indices * lanes + self._lanes).flatten()).view(
            *indices.shape, -1
        )
        observations, actions, next_observations, rewards, terminated = rows.split(
            self._widths, dim=-1
        )
        return Batch(
            observations, actions, rewards.squeeze(-1), next_observations, terminated.squeeze(-1)
        )
