"""Parameters of all seeds with the state of Adam or AdamW, and gradient clipping by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.agents.learning_rate import Rates
from mtrl_fairgrad.agents.masks import preserve_rows
from mtrl_fairgrad.agents.networks import Parameters, Tensors
from mtrl_fairgrad.agents.policy import merge, split
from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.weighting.products import Joined, join, joinable

BETAS = 0.9, 0.999
"""Decay rates of Adam's moments (Kingma & Ba, 2015)."""

_torch: Any = torch  # some functions are not annotated


class Adam:
    """Adam (Kingma & Ba, 2015) of S seeds, of which some can be left out of a step.

    PyTorch's fused kernel leaves parameters and moments alone where its argument `found_inf` is 1.
    So a skipped step costs no copy, and no value is looked at on a GPU.

    Args:
        parameters: `[S, ...]`, updated in place.
        learning_rate: step size; a tensor, float32 `[]` on the parameters' device, may change
            between steps.
        epsilon: the denominator's term.
        betas: decay rates of the moments.
        weight_decay: factor of the parameters that is added to the gradients.
        decoupled: shrink the parameters by learning rate · weight decay instead, which is AdamW
            (Loshchilov & Hutter, 2019).
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: float | Tensor,
        epsilon: float,
        betas: tuple[float, float] = BETAS,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        self.exp_avg = [torch.zeros_like(parameter) for parameter in parameters]
        self.exp_avg_sq = [torch.zeros_like(parameter) for parameter in parameters]
        device = parameters[0].device
        self.count = torch.zeros((), dtype=torch.float32, device=device)
        """Number of steps, the same for all parameters and seeds."""
        self.started = False
        """Whether there was a step; looking at `count` would wait for the device."""
        self._kernel = _torch._fused_adamw_ if decoupled else _torch._fused_adam_
        self._options = {
            "lr": learning_rate,
            "beta1": betas[0],
            "beta2": betas[1],
            "weight_decay": weight_decay,
            "eps": epsilon,
            "amsgrad": False,
            "maximize": False,
        }
        self._stacked = [list(parameters), self.exp_avg, self.exp_avg_sq]
        self._rows = list(zip(*map(_by_seed, self._stacked), strict=True))

    def step(self, gradients: Sequence[Tensor], skip: Tensor) -> None:
        """Step along these gradients `[S, ...]`, except for the seeds in `skip`, `[S]` bool."""
        self.count += 1
        self.started = True
        if skip.device.type != "cpu":
            return self.masked_step(gradients, skip)
        # Steps of single seeds would round differently: the kernel treats ends of rows differently.
        with preserve_rows(skip, [tensor for tensors in self._stacked for tensor in tensors]):
            self._fused(gradients, *self._stacked, found_inf=None)

    def masked_step(self, gradients: Sequence[Tensor], skip: Tensor) -> None:
        """Change parameters and moments by one launch for each seed, without a look at `skip`."""
        found_inf = skip.to(torch.float32).unbind()
        for rows, state, skipped in zip(_by_seed(gradients), self._rows, found_inf, strict=True):
            self._fused(rows, *state, found_inf=skipped)

    def _fused(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        exp_avg: Sequence[Tensor],
        exp_avg_sq: Sequence[Tensor],
        found_inf: Tensor | None,
    ) -> None:
        # Fused Adam on the CPU ignores the strides of a gradient (PyTorch 2.13).
        self._kernel(
            parameters,
            [gradient.contiguous() for gradient in gradients],
            exp_avg,
            exp_avg_sq,
            [],
            [self.count] * len(parameters),
            **self._options,
            grad_scale=None,
            found_inf=found_inf,
        )


def _by_seed(tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Return the views of each seed of tensors `[S, ...]`."""
    return list(zip(*(tensor.unbind() for tensor in tensors), strict=True))


class OptimizedParameters:
    """Parameters `shared` `[S, ...]` and `own` `[S, K, ...]`, updated in place by Adam or AdamW.

    Args:
        parameters: initial values, owned by this object from now on.
        options: arguments of `Adam` besides the parameters.
    """

    def __init__(self, parameters: Parameters, **options: Any) -> None:
        self.shared, self.own = parameters
        self.adam = Adam([*self.shared.values(), *self.own.values()], **options)

    def step(self, shared: Tensors, own: Tensors, skip: Tensor) -> None:
        """Make one Adam step along these gradients, except for the seeds in `skip`.

        Args:
            shared: name -> `[S, ...]`.
            own: name -> `[S, K, ...]`.
            skip: `[S]` bool; parameters and moments of these seeds keep their values.
        """
        self.adam.step([shared[n] for n in self.shared] + [own[n] for n in self.own], skip)

    def tensors(self) -> list[Tensor]:
        """Return parameters and moments, `[S, ...]`, without copying."""
        moments = (*self.adam.exp_avg, *self.adam.exp_avg_sq)
        return [*self.shared.values(), *self.own.values(), *moments]

    def restart(self, fresh: Parameters) -> None:
        """Overwrite the parameters with `fresh` ones, and the optimiser's state with zeros."""
        for group, values in ((self.shared, fresh.shared), (self.own, fresh.own)):
            for name, parameter in group.items():
                parameter.copy_(values[name])
        for state in (self.adam.count, *self.adam.exp_avg, *self.adam.exp_avg_sq):
            state.zero_()

    def _parameters(self) -> Tensors:
        return merge(shared=self.shared, own=self.own)

    def _optimizer_state(self) -> Tensors:
        """Return the optimiser's state by the names in checkpoints."""
        adam = self.adam
        steps = [adam.count] * len(adam.exp_avg)
        entries = {"step": steps, "exp_avg": adam.exp_avg, "exp_avg_sq": adam.exp_avg_sq}
        return {
            f"adam.{entry}.{name}": value
            for entry, values in entries.items()
            for name, value in zip(self._parameters(), values, strict=True)
        }

    def state(self) -> Tensors:
        """Return parameters and Adam's state by name.

        Names are `shared.*`, `own.*` and, after the first step, `adam.<entry>.<parameter>`.
        """
        return {**self._parameters(), **(self._optimizer_state() if self.adam.started else {})}

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
        entries = self._optimizer_state()
        self.adam.started = bool(entries.keys() & state.keys())
        for name, value in entries.items():
            value.copy_(state[name]) if self.adam.started else value.zero_()


def optimized(
    initial: Sequence[Parameters], config: AgentConfig, rates: Rates
) -> tuple[OptimizedParameters, ...]:
    """Give actor, critics and temperatures, in this order, their optimisers.

    Weight decay applies to all parameters of actor and critics, biases and LayerNorm's scales
    included, and never to the temperatures, as in the codes of BRC and FastTD3.
    """
    options = {"epsilon": config.adam_epsilon, "betas": (config.beta1, config.beta2)}
    of_network = {
        "learning_rate": rates.rate(config.learning_rate),
        "weight_decay": config.weight_decay,
        "decoupled": config.optimizer == "adamw",
    }
    of_temperature = {"learning_rate": rates.rate(config.temperature_learning_rate)}
    return tuple(
        OptimizedParameters(parameters, **options, **chosen)
        for parameters, chosen in zip(
            initial, (of_network, of_network, of_temperature), strict=True
        )
    )


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
    if joinable([*shared.values(), *own.values()]):
        return clip_joined(shared, own, max_norm, apart)
    parts = [
        torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        for gradient in (*shared.values(), *own.values())
    ]
    norms = torch.stack(parts)
    norm = torch.linalg.vector_norm(norms, dim=0)
    if max_norm is None:
        return ClippedGradient(shared, own, norm)

    def scale(group: Tensors, norm: Tensor) -> Tensors:
        factor = _clip_factor(norm, max_norm)
        return {
            name: gradient * factor.view(-1, *(1,) * (gradient.ndim - 1))
            for name, gradient in group.items()
        }

    if not apart:
        return ClippedGradient(scale(shared, norm), scale(own, norm), norm)
    ends = norms[: len(shared)], norms[len(shared) :]
    norm_shared, norm_own = (torch.linalg.vector_norm(rows, dim=0) for rows in ends)
    return ClippedGradient(scale(shared, norm_shared), scale(own, norm_own), norm)


def clip_joined(
    shared: Tensors, own: Tensors, max_norm: float | None, apart: bool
) -> ClippedGradient:
    """Do the same in few launches, by joining all gradients of a seed."""
    if apart and own:
        first = clip_joined(shared, {}, max_norm, False)
        second = clip_joined({}, own, max_norm, False)
        return ClippedGradient(first.shared, second.own, torch.hypot(first.norm, second.norm))
    if isinstance(shared, Joined) and not own:
        clipped, norm = _clip_whole(shared, max_norm)
        return ClippedGradient(clipped, {}, norm)
    clipped, norm = _clip_whole(join(merge(shared=shared, own=own)), max_norm)
    clipped_shared, clipped_own = split(clipped, "shared", "own")
    return ClippedGradient(clipped_shared, clipped_own, norm)


def _clip_whole(gradient: Joined, max_norm: float | None) -> tuple[Joined, Tensor]:
    """Return a clipped gradient and its norm `[S]` before."""
    norm = torch.linalg.vector_norm(gradient.whole, dim=1)
    if max_norm is None:
        return gradient, norm
    return gradient.with_whole(gradient.whole * _clip_factor(norm, max_norm).unsqueeze(-1)), norm


def _clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)
