"""The policy without its agent: named tensors for a copy, a module that acts and is exported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtrl_fairgrad.agents.networks import Tensors, encoder_parameters, mlp
from mtrl_fairgrad.agents.observation_normalizer import normalized
from mtrl_fairgrad.agents.sac_losses import SACLosses
from mtrl_fairgrad.utils.threads import one_thread

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


def _layer_norm(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Do as `networks.layer_norm` for one network, by elementary operations, for `torch.export`.

    Under vmap the fused operation ties an exported program to the number of rows of its example,
    and a conversion fails (PyTorch 2.13).
    """
    width = scale.shape[-1]
    centred = inputs - inputs.sum(-1, keepdim=True) / width
    variance = (centred * centred).sum(-1, keepdim=True) / width
    return centred * (variance + 1e-5).rsqrt() * scale + shift


def exported_mode(losses: SACLosses) -> Mode:
    """Return the policy of one task by operations that `torch.export` takes."""
    if losses.actor_network is mlp:
        losses = replace(losses, actor_network=partial(mlp, norm=_layer_norm))
    return partial(mode, losses)


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
                False. Own parameters are copied for each row.

        Raises:
            IndexError: a task is out of range.
        """
        if tasks is None:
            return self.act(observations)
        return self._act([value.index_select(0, tasks) for value in self._own], observations)

    def act(self, observations: Tensor) -> Tensor:
        """Return what `forward` does for `[K, O]`, a row of each task in order, without copies."""
        return self._act(self._own, observations)

    def _act(self, own: Iterable[Tensor], observations: Tensor) -> Tensor:
        """Return actions `[B, A]`, given each row's own parameters `[B, ...]`."""
        shared = dict(zip(self._shared_names, self._shared, strict=True))
        if not self.needs_tasks:
            return self._mode(shared, {}, observations)
        of_rows = dict(zip(self._own_names, own, strict=True))
        rows = observations.unsqueeze(1)
        return torch.func.vmap(self._mode, in_dims=(None, 0, 0))(shared, of_rows, rows).squeeze(1)


class SeedPolicies:
    """The policies of all seeds on the CPU, with every bit of the exported programs.

    Products of another shape, on another number of threads, or of a tensor that begins elsewhere in
    memory round differently, and contacts of a simulation amplify that until an exported policy
    does not repeat the success rates of its run. So each seed is computed by itself, on one thread,
    from a tensor of its own.

    Args:
        policies: of each seed, `[K, O]` -> `[K, A]`, tasks in order: `PolicyModule.act`, or that of
            a program.
    """

    def __init__(self, policies: Iterable[Callable[[Tensor], Tensor]]) -> None:
        self._policies = tuple(policies)

    @torch.no_grad()
    def __call__(self, observations: Tensor) -> Tensor:
        """Return modes `[S, K, A]` for observations `[S, K, O]` on the CPU, tasks in order."""
        pairs = zip(self._policies, observations, strict=True)
        with one_thread():
            return torch.stack([policy(rows.clone()) for policy, rows in pairs])


def on_rows(
    act: Callable[[Tensor], Tensor], seeds: int
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a policy of rows, `[S·K, O]` -> `[S·K, A]`.

    Args:
        act: maps observations `[S, K, O]` to actions `[S, K, A]`, both on the CPU.
        seeds: S.
    """

    def policy(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        shaped = observations.reshape(seeds, -1, observations.shape[-1])
        return act(torch.from_numpy(shaped)).flatten(0, 1).numpy()

    return policy


def policy_modules(
    losses: SACLosses, shared: Tensors, own: Tensors, seeds: int
) -> tuple[PolicyModule, ...]:
    """Return the policy of each seed.

    Args:
        losses: equations.
        shared: name -> `[S, ...]`, as named by `acting_parameters`.
        own: name -> `[S, K, ...]`, named likewise.
        seeds: S.
    """
    of_task = exported_mode(losses)
    return tuple(
        PolicyModule(
            of_task,
            {name: value[seed] for name, value in shared.items()},
            {name: value[seed] for name, value in own.items()},
        )
        for seed in range(seeds)
    )


def _frozen(parameters: Tensors) -> nn.ParameterList:
    return nn.ParameterList(
        nn.Parameter(value.detach().to("cpu", copy=True), False) for value in parameters.values()
    )
