"""What acting needs of the networks, as named tensors, and one seed's of it as a module that
`torch.export` takes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mtrl_fairgrad.agents.networks import Tensors, of_encoder
from mtrl_fairgrad.agents.sac_losses import Losses

Mode = Callable[[Tensors, Tensors, Tensor], Tensor]
"""Shared parameters, one task's own parameters, observations `[B, O]` → actions `[B, A]`; pure, one
seed's.
"""


def merge(**groups: Tensors) -> Tensors:
    """All groups in one mapping: each name behind its group's, `group.*`."""
    return {
        f"{group}.{name}": value
        for group, members in groups.items()
        for name, value in members.items()
    }


def split(merged: Tensors, *groups: str) -> tuple[Tensors, ...]:
    """These groups of what `merge` returned, by the names they had."""
    return tuple(
        {
            name.removeprefix(f"{group}."): value
            for name, value in merged.items()
            if name.startswith(f"{group}.")
        }
        for group in groups
    )


def for_acting(actor: Tensors, critics: Tensors) -> Tensors:
    """What acting needs of both networks' shared or own parameters, in one mapping: `actor.*`,
    `critics.*`.
    """
    return merge(actor=actor, critics=of_encoder(critics))


def by_network(group: Tensors) -> tuple[Tensors, ...]:
    """What `for_acting` returned, the actor's and the critics' apart."""
    return split(group, "actor", "critics")


def mode(losses: Losses, shared: Tensors, own: Tensors, observations: Tensor) -> Tensor:
    """The mode of the action `[B, A]` for observations `[B, O]` of one task; parameters as
    `for_acting` names them.
    """
    return losses.action(by_network(shared), by_network(own), observations)


class PolicyModule(nn.Module):
    """The deterministic policy of one seed: observations `[B, O]` → the mode of the action, `[B,
    A]`.

    It asks for the tasks `[B]` of the rows, int64 in 0 … K − 1, only if tasks have parameters of
    their own; otherwise all that a network knows of its task is in the observation.

    Args:
        mode: the policy of one task.
        shared: name → `[...]`, copied to the CPU.
        own: name → `[K, ...]`, copied to the CPU; empty where tasks have none.
    """

    def __init__(self, mode: Mode, shared: Tensors, own: Tensors) -> None:
        super().__init__()
        self._mode = mode
        # Lists and names apart: a module's parameters may not have dots in their names, ours may.
        self._shared_names, self._own_names = tuple(shared), tuple(own)
        self._shared, self._own = _frozen(shared), _frozen(own)

    @property
    def needs_tasks(self) -> bool:
        """Whether `forward` takes the tasks, too."""
        return bool(self._own_names)

    def forward(self, observations: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Actions `[B, A]`; a task outside of 0 … K − 1 raises RuntimeError."""
        shared = dict(zip(self._shared_names, self._shared, strict=True))
        if tasks is None:
            return self._mode(shared, {}, observations)
        own = dict(zip(self._own_names, self._own, strict=True))
        # All tasks' answers to all rows, then each row's: what is shared is computed once, and no
        # row copies weights.
        every = torch.func.vmap(self._mode, in_dims=(None, 0, None))(shared, own, observations)
        return every.gather(0, tasks.view(1, -1, 1).expand(1, -1, every.shape[-1])).squeeze(0)


def _frozen(parameters: Tensors) -> nn.ParameterList:
    return nn.ParameterList(
        nn.Parameter(value.detach().cpu().clone(), False) for value in parameters.values()
    )
