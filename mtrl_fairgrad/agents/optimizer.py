"""Parameters of all seeds with their Adam state, and gradient clipping by seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.agents.masks import may_select, preserve_rows, zero_rows
from mtrl_fairgrad.agents.networks import Parameters, Tensors
from mtrl_fairgrad.agents.policy import merge
from mtrl_fairgrad.utils.optimizer_state import adam_tensors, load_adam_tensors

_ADAM_KEY = "adam.{entry}.{name}"


class OptimizedParameters:
    """Parameters `shared` `[S, ...]` and `own` `[S, K, ...]`, updated in place by Adam.

    Args:
        parameters: initial values, owned by this object from now on.
        learning_rate: Adam's learning rate.
        epsilon: Adam's denominator term.
    """

    def __init__(self, parameters: Parameters, learning_rate: float, epsilon: float) -> None:
        self.shared, self.own = parameters
        trained = [*self.shared.values(), *self.own.values()]
        on_gpu = trained[0].is_cuda  # where the step may be captured in a CUDA graph
        self.optimizer = torch.optim.Adam(
            trained, learning_rate, eps=epsilon, fused=True, capturable=on_gpu
        )

    def step(self, shared: Tensors, own: Tensors, skip: Tensor) -> None:
        """Make one Adam step along these gradients, except for the seeds in `skip`.

        Args:
            shared: name -> `[S, ...]`.
            own: name -> `[S, K, ...]`.
            skip: `[S]` bool; parameters and moments of these seeds keep their values.
        """
        with preserve_rows(skip, self.tensors()):
            if may_select(skip):  # the first step creates moments, which must not be NaN
                shared, own = zero_rows(skip, shared), zero_rows(skip, own)
            for group, gradients in ((self.shared, shared), (self.own, own)):
                for name, parameter in group.items():
                    # Fused Adam on the CPU ignores the strides of a gradient (PyTorch 2.13).
                    parameter.grad = gradients[name].contiguous()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def tensors(self) -> list[Tensor]:
        """Return parameters and, after the first step, moments, `[S, ...]`, without copying."""
        moments = (
            moment
            for entries in self.optimizer.state.values()
            for moment in entries.values()
            if moment.ndim
        )
        return [*self.shared.values(), *self.own.values(), *moments]

    def restart(self, fresh: Parameters) -> None:
        """Overwrite the parameters with `fresh` ones, and the optimiser's state with zeros."""
        for group, values in ((self.shared, fresh.shared), (self.own, fresh.own)):
            for name, parameter in group.items():
                parameter.copy_(values[name])
        for entries in self.optimizer.state.values():
            for value in entries.values():
                value.zero_()

    def _parameters(self) -> Tensors:
        return merge(shared=self.shared, own=self.own)

    def state(self) -> Tensors:
        """Return parameters and Adam's state by name.

        Names are `shared.*`, `own.*` and, after the first step, `adam.<entry>.<parameter>`.
        """
        parameters = self._parameters()
        return {**parameters, **adam_tensors(self.optimizer, parameters, _ADAM_KEY)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned.

        Raises:
            ValueError: a parameter is missing or has another shape.
        """
        for name, parameter in self._parameters().items():
            if name not in state or state[name].shape != parameter.shape:
                stored = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(
                    f"the checkpoint holds {stored} for {name} but this agent needs "
                    f"{tuple(parameter.shape)}: use the configuration the run was started with."
                )
            parameter.copy_(state[name])
        load_adam_tensors(self.optimizer, self._parameters(), _ADAM_KEY, state)


class ClippedGradient(NamedTuple):
    """A gradient of all seeds after clipping."""

    shared: Tensors
    """Name -> `[S, ...]`."""
    own: Tensors
    """Name -> `[S, K, ...]`."""
    norm: Tensor
    """`[S]`, of the whole gradient before clipping."""


def clip_by_norm(
    shared: Tensors, own: Tensors, max_norm: float | None, apart: bool = False
) -> ClippedGradient:
    """Scale each seed's gradient down to the norm `max_norm`.

    `torch.nn.utils.clip_grad_norm_` over stacked parameters would mix the seeds.

    Args:
        shared: name -> `[S, ...]`.
        own: name -> `[S, K, ...]`.
        max_norm: largest norm of a seed's gradient; None for no clipping.
        apart: whether `shared` and `own` are clipped each by its own norm, instead of both by the
            norm of the whole gradient.
    """
    parts = [
        torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        for gradient in (*shared.values(), *own.values())
    ]
    norms = torch.stack(parts)
    norm = torch.linalg.vector_norm(norms, dim=0)
    if max_norm is None:
        return ClippedGradient(shared, own, norm)

    def scale(group: Tensors, norm: Tensor) -> Tensors:
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        return {
            name: gradient * factor.view(-1, *(1,) * (gradient.ndim - 1))
            for name, gradient in group.items()
        }

    if not apart:
        return ClippedGradient(scale(shared, norm), scale(own, norm), norm)
    ends = norms[: len(shared)], norms[len(shared) :]
    norm_shared, norm_own = (torch.linalg.vector_norm(rows, dim=0) for rows in ends)
    return ClippedGradient(scale(shared, norm_shared), scale(own, norm_own), norm)
