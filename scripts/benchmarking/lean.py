"""Single-task SAC in the form of LeanRL (github.com/meta-pytorch/LeanRL), for comparison.

What LeanRL does to make plain SAC fast: both critics are one network with stacked parameters,
lifted by `torch.vmap`; forward and backward passes of critics and actor are compiled by
`torch.compile`, and all is replayed from a CUDA graph. As there, gradients are not clipped. Adam is
PyTorch's fused kernel, which the compiler does not look into.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state  # pyright: ignore[reportPrivateImportUsage, reportUnknownVariableType]

from mtrl_fairgrad.agents import Batch, Noise

from .plain import GAMMA, POLYAK, RATE, adam, perceptron, squashed_sample
from .settings import Size

_torch: Any = torch  # some functions are incompletely annotated


class LeanSAC:
    """The agent of one task; `size.tasks` and `size.seeds` are 1.

    Args:
        size: sizes of networks and batch.
        device: where to compute.
        compile: compile both updates.
    """

    def __init__(self, size: Size, device: torch.device, compile: bool) -> None:
        seen = size.observation + size.action
        self.actor = perceptron(size.observation, 2 * size.action, size).to(device)
        twins = [perceptron(seen, 1, size).to(device) for _ in range(2)]
        self.critics: dict[str, Tensor] = {
            name: value.detach().requires_grad_()
            for name, value in stack_module_state(twins)[0].items()
        }
        self.targets = {name: value.detach().clone() for name, value in self.critics.items()}
        self.log_temperature = torch.zeros((), device=device, requires_grad=True)
        self.target_entropy = -float(size.action)
        self._critic = perceptron(seen, 1, size).to("meta")
        self.optimizers = {
            "critics": adam(self.critics.values(), RATE),
            "actor": adam(self.actor.parameters(), RATE),
            "temperature": adam([self.log_temperature], RATE),
        }
        update_critics, update_actor = self._update_critics, self._update_actor
        if compile:
            update_critics = _torch.compile(update_critics, dynamic=False)
            update_actor = _torch.compile(update_actor, dynamic=False)
        self._updates = update_critics, update_actor

    def update(self, batch: Batch, noise: Noise) -> None:
        """Update critics, actor, temperature and targets with a batch `[1, 1, B, ...]`."""
        data = Batch(*(field[0, 0] for field in batch[:5]))
        update_critics, update_actor = self._updates
        assert noise.actions is not None
        update_critics(data, noise.next_actions[0, 0])
        update_actor(data.observations, noise.actions[0, 0])
        with torch.no_grad():
            _torch._foreach_lerp_([*self.targets.values()], [*self.critics.values()], POLYAK)

    def values(self, critics: dict[str, Tensor], observations: Tensor, actions: Tensor) -> Tensor:
        """Return the values of both critics, `[2, B]`."""
        inputs = torch.cat([observations, actions], -1)

        def one(parameters: dict[str, Tensor]) -> Tensor:
            return functional_call(self._critic, parameters, (inputs,)).squeeze(-1)

        return torch.vmap(one)(critics)

    def _update_critics(self, data: Batch, noise: Tensor) -> None:
        with torch.no_grad():
            next_actions, density = squashed_sample(self.actor, data.next_observations, noise)
            value = self.values(self.targets, data.next_observations, next_actions).amin(0)
            value = value - self.log_temperature.exp() * density
            target = data.rewards + GAMMA * (1 - data.terminated) * value
        errors = self.values(self.critics, data.observations, data.actions) - target
        self._step("critics", errors.square().mean(-1).sum())

    def _update_actor(self, observations: Tensor, noise: Tensor) -> None:
        critics = {name: value.detach() for name, value in self.critics.items()}
        actions, density = squashed_sample(self.actor, observations, noise)
        value = self.values(critics, observations, actions).amin(0)
        self._step("actor", (self.log_temperature.detach().exp() * density - value).mean())
        surplus = -(density.detach().mean() + self.target_entropy)
        self._step("temperature", self.log_temperature * surplus)

    def _step(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()
