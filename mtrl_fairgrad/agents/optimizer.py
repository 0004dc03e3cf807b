"""Parameters of one network for all seeds, with their optimiser, and clipping that keeps the seeds
apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtrl_fairgrad.agents.guard import blank, kept
from mtrl_fairgrad.agents.networks import Parameters, Tensors
from mtrl_fairgrad.agents.policy import merge


class OptimizedParameters:
    """Parameters of one network with their optimiser: `shared` `[S, ...]` and `own` `[S, K, ...]`."""

    def __init__(self, parameters: Parameters, learning_rate: float, epsilon: float) -> None:
        self.shared, self.own = parameters
        learned = [*self.shared.values(), *self.own.values()]
        on_gpu = learned[0].is_cuda  # where a CUDA graph may hold its step
        self.optimizer = torch.optim.Adam(
            learned, learning_rate, eps=epsilon, fused=True, capturable=on_gpu
        )

    def step(self, shared: Tensors, own: Tensors, left_out: Tensor) -> None:
        """One Adam step along the given gradients, except for the seeds `left_out`, `[S]` bool."""
        with kept(left_out, self.tensors()) as any_left_out:
            # the first step makes the moments, which may as well begin without NaN
            if any_left_out:
                shared, own = blank(left_out, shared), blank(left_out, own)
            for group, gradients in ((self.shared, shared), (self.own, own)):
                for name, parameter in group.items():
                    # Fused Adam on CPU reads a gradient in memory order, whatever its strides
                    # (PyTorch 2.13).
                    parameter.grad = gradients[name].contiguous()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def tensors(self) -> list[Tensor]:
        """Parameters and, once a step was made, moments: all that belongs to seeds, `[S, ...]`, in
        place.
        """
        moments = (
            moment
            for entries in self.optimizer.state.values()
            for moment in entries.values()
            if moment.ndim
        )
        return [*self.shared.values(), *self.own.values(), *moments]

    def restart(self, fresh: Parameters) -> None:
        """Begin anew, in place, with these parameters and an optimiser that remembers nothing."""
        for group, values in ((self.shared, fresh.shared), (self.own, fresh.own)):
            for name, parameter in group.items():
                parameter.copy_(values[name])
        for moments in self.optimizer.state.values():
            for moment in moments.values():
                moment.zero_()

    def _named(self) -> Tensors:
        return merge(shared=self.shared, own=self.own)

    def state(self) -> Tensors:
        """Parameters `shared.*`, `own.*` and, once a step was made, Adam's moments
        `adam.<entry>.<parameter>`.
        """
        named, moments = self._named(), self.optimizer.state_dict()["state"]
        adam = {
            f"adam.{entry}.{name}": value
            for index, name in enumerate(named)
            for entry, value in moments.get(index, {}).items()
        }
        return {**named, **adam}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises:
            ValueError: a parameter is missing or has another shape.
        """
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (name, parameter) in enumerate(self._named().items()):
            if name not in state or state[name].shape != parameter.shape:
                found = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(
                    f"the checkpoint holds {found} for {name} where this agent has "
                    f"{tuple(parameter.shape)}: "
                    "use the configuration the run was started with."
                )
            parameter.copy_(state[name])
            saved = {
                entry: state.get(f"adam.{entry}.{name}")
                for entry in ("step", "exp_avg", "exp_avg_sq")
            }
            moments[index] = {
                entry: value.clone() for entry, value in saved.items() if value is not None
            }
        groups = self.optimizer.state_dict()["param_groups"]
        kept = {index: entries for index, entries in moments.items() if entries}
        self.optimizer.load_state_dict({"state": kept, "param_groups": groups})


def clip_by_norm(
    shared: Tensors, own: Tensors, max_norm: float | None
) -> tuple[Tensors, Tensors, Tensor]:
    """Scale each *seed's* whole gradient down to `max_norm`, and say how long it was.

    `torch.nn.utils.clip_grad_norm_` over stacked parameters would mix the seeds.

    Args:
        shared: name -> `[S, ...]`.
        own: name -> `[S, K, ...]`.
        max_norm: the longest a seed's gradient may be; `None` leaves all as they are.

    Returns:
        both, scaled, and the norms `[S]` before scaling.
    """
    parts = [
        torch.linalg.vector_norm(g.flatten(1), dim=1) for g in (*shared.values(), *own.values())
    ]
    norm = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    if max_norm is None:
        return shared, own, norm
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)

    def scaled(group: Tensors) -> Tensors:
        return {name: g * factor.view(-1, *(1,) * (g.ndim - 1)) for name, g in group.items()}

    return scaled(shared), scaled(own), norm
