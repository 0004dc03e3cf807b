"""Replay memory of all seeds and tasks: one preallocated ring on the learner's device."""

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
    """`[...]`, 1 where the task itself ended (no bootstrapping), 0 elsewhere, time limits included."""


class Replay:
    """The last `capacity` steps of every task of every seed.

    A transition is one row `[observation, action, next observation, reward, terminated]`, so that a sampled batch is
    one gather: `rows` is `[capacity, S, K, 2·O + A + 2]`, float32 unless told otherwise.

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
        self.size = 0
        """Filled steps, the same for every task."""
        self._position = 0
        self._widths = (observation_dim, action_dim, observation_dim, 1, 1)
        shape = (capacity, seeds, tasks, sum(self._widths))
        try:
            self.rows = torch.empty(shape, device=device, dtype=dtype)
        except RuntimeError as error:
            gib = torch.tensor(shape).prod().item() * dtype.itemsize / 2**30
            raise MemoryError(
                f"agent.buffer_size={capacity} needs {gib:.1f} GiB for {seeds} seeds × {tasks} tasks on {device}, "
                "which it does not have: choose a smaller agent.buffer_size or fewer seeds."
            ) from error
        self._lanes = torch.arange(seeds * tasks, device=device).view(seeds, tasks, 1)

    def add(self, step: Batch) -> None:
        """Store one step of every task, fields `[S, K, ...]`; the oldest step gives way when the ring is full."""
        parts = (step.observations, step.actions, step.next_observations, step.rewards, step.terminated)
        columns = [part if part.ndim == 3 else part.unsqueeze(-1) for part in parts]
        self.rows[self._position] = torch.cat([column.to(self.rows.dtype) for column in columns], dim=-1)
        self._position = (self._position + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def sample(self, indices: Tensor) -> Batch:
        """The transitions at `indices`, int64 `[S, K, B]` in 0 … size − 1: as many of every task."""
        flat = self.rows.view(-1, self.rows.shape[-1])
        lanes = self.rows.shape[1] * self.rows.shape[2]
        rows = flat.index_select(0, (indices * lanes + self._lanes).flatten()).view(*indices.shape, -1)
        observations, actions, next_observations, rewards, terminated = rows.split(self._widths, dim=-1)
        return Batch(observations, actions, rewards.squeeze(-1), next_observations, terminated.squeeze(-1))

    def state(self) -> dict[str, Tensor]:
        """The filled part `[size, S, K, D]` in ring order, and where the next step goes."""
        return {"rows": self.rows[: self.size], "position": torch.tensor(self._position)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned for a buffer of the same shape."""
        rows = state["rows"]
        if rows.shape[1:] != self.rows.shape[1:] or len(rows) > self.capacity:
            raise ValueError(
                f"the checkpoint's replay holds {tuple(rows.shape)} but this run's is {tuple(self.rows.shape)}: "
                "resume with the configuration the run was started with."
            )
        self.size, self._position = len(rows), int(state["position"])
        self.rows[: self.size] = rows.to(self.rows)
