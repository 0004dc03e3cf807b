"""The policy without its agent: named tensors for a copy, a module for `torch.export`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mtrl_fairgrad.agents.networks import Tensors, encoder_parameters
from mtrl_fairgrad.agents.observation_normalizer import normalized
from mtrl_fairgrad.agents.sac_losses import SACLosses

Mode = Callable[[Tensors, Tensors, Tensor], Tensor]
"""Pure function of shared and own parameters of one seed and task: `[B, O]` -> `[B, A]`."""


def merge(**groups: Tensors) -> Tensors:
    """Return all groups in one mapping, with the group's name before each name: `group.*`."""
    return {
        f"{group}.{name}": value
        for group, members in groups.items()
        for name, value in members.items()
    }


def split(merged: Tensors, *groups: str) -> tuple[Tensors, ...]:
    """Undo `merge`: return these groups, each with its original names."""
    return tuple(
        {
            name.removeprefix(f"{group}."): value
            for name, value in merged.items()
            if name.startswith(f"{group}.")
        }
        for group in groups
    )


def acting_parameters(actor: Tensors, critics: Tensors, observations: Tensors) -> Tensors:
    """Select the shared or own parameters that acting needs.

    Returns:
        `actor.*`, `critics.*`, and `observations.*`, by which observations are normalised.
    """
    return merge(actor=actor, critics=encoder_parameters(critics), observations=observations)


def by_network(parameters: Tensors) -> tuple[Tensors, ...]:
    """Return the actor's and the critics' parameters among those of `acting_parameters`."""
    return split(parameters, "actor", "critics")


def of_observations(parameters: Tensors) -> Tensors:
    """Return the parameters of observations among those of `acting_parameters`."""
    return split(parameters, "observations")[0]


def mode(losses: SACLosses, shared: Tensors, own: Tensors, observations: Tensor) -> Tensor:
    """Return the mode of the action, `[B, A]`, for observations `[B, O]` of one task.

    Args:
        losses: equations.
        shared: parameters, named as by `acting_parameters`.
        own: the task's own parameters, named likewise.
        observations: `[B, O]`, as the environment returns them.
    """
    observations = normalized(observations, of_observations({**shared, **own}))
    return losses.action(by_network(shared), by_network(own), observations)


class PolicyModule(nn.Module):
    """The deterministic policy of one seed: observations `[B, O]` -> mode of the action `[B, A]`.

    Args:
        mode: the policy of one task.
        shared: name -> `[...]`, copied to the CPU.
        own: name -> `[K, ...]`, copied to the CPU; empty if no task has own parameters.
    """

    def __init__(self, mode: Mode, shared: Tensors, own: Tensors) -> None:
        super().__init__()
        self._mode = mode
        # Names are separate from values: names of a module's parameters may not contain dots.
        self._shared_names, self._own_names = tuple(shared), tuple(own)
        self._shared, self._own = _frozen(shared), _frozen(own)

    @property
    def needs_tasks(self) -> bool:
        """Whether `forward` needs the tasks, because some parameters are a task's own."""
        return bool(self._own_names)

    def forward(self, observations: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Return actions `[B, A]`.

        Args:
            observations: `[B, O]`.
            tasks: int64 `[B]`, the task of each row, from 0 to K − 1; None if `needs_tasks` is
                False.

        Raises:
            RuntimeError: a task is out of range.
        """
        shared = dict(zip(self._shared_names, self._shared, strict=True))
        if tasks is None:
            return self._mode(shared, {}, observations)
        own = dict(zip(self._own_names, self._own, strict=True))
        # Compute every task's action for every row, then select: shared layers are computed once,
        # and weights are not copied for each row.
        actions = torch.func.vmap(self._mode, in_dims=(None, 0, None))(shared, own, observations)
        index = tasks.view(1, -1, 1).expand(1, -1, actions.shape[-1])
        return actions.gather(0, index).squeeze(0)


def _frozen(parameters: Tensors) -> nn.ParameterList:
    return nn.ParameterList(
        nn.Parameter(value.detach().cpu().clone(), False) for value in parameters.values()
    )
