"""Where combined gradients go, and the units they travel in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from mtrl_fairgrad.gradients.conventions import Convention
from mtrl_fairgrad.gradients.shared_graph.distributed import Processes


@dataclass(frozen=True)
class Destination:
    """The `.grad` of a model's parameters, in the scaler's units, alike in all processes."""

    shared: list[Tensor]
    own: list[Tensor]
    scaler: GradScaler | None
    """None also for one that is not enabled."""
    processes: Processes
    convention: Convention

    @classmethod
    def of(
        cls,
        shared: Iterable[Tensor],
        own: Iterable[Tensor],
        scaler: GradScaler | None,
        processes: Processes,
        convention: Convention,
    ) -> Destination:
        """The destination in those of the parameters that require a gradient.

        Raises:
            ValueError: no such shared parameter, one that is given twice, or a tensor in place of
                several.
        """
        shared, own = _trainable(shared, "shared"), _trainable(own, "own")
        if not shared:
            raise ValueError(
                "shared holds no parameter that requires a gradient: pass "
                "model.encoder.parameters()."
            )
        if len({id(parameter) for parameter in (*shared, *own)}) < len(shared) + len(own):
            raise ValueError(
                "a parameter is given twice: list each once, under shared or under own."
            )
        return cls(
            shared,
            own,
            scaler if scaler is not None and scaler.is_enabled() else None,
            processes,
            convention,
        )

    def scale(self, device: torch.device) -> Tensor:
        """What the scaler multiplies losses with, 1 without any."""
        one = torch.ones((), device=device)
        return one if self.scaler is None else self.scaler.scale(one)

    def overflowed(self, tensors: Iterable[Tensor]) -> bool:
        """Whether the scaler has to skip this step everywhere: a tensor is not finite in one of the
        processes.
        """
        return self.scaler is not None and bool(
            self.processes.sum((~largest(tensors).isfinite()).float()) > 0
        )

    def write(
        self, direction: dict[str, Tensor], own: Sequence[Tensor], losses: Tensor
    ) -> dict[str, Tensor]:
        """Add a direction, by the convention, and own gradients to `.grad`; NaN under a scaler if
        one is not finite.

        Returns:
            under a scaler, whether the step will be `skipped`.
        """
        direction = self.convention.apply(direction, len(losses), batch_dims=0)
        gradients = [*(direction[str(i)] for i in range(len(self.shared))), *own]
        scale, report = self.scale(losses.device), {}
        if self.scaler is not None:
            finite = largest(gradients).isfinite()
            scale, report = torch.where(finite, scale, torch.nan), {"skipped": ~finite}
        for parameter, gradient in zip([*self.shared, *self.own], gradients, strict=True):
            _accumulate(parameter, gradient * scale)
        return report

    def skip(self) -> dict[str, Tensor]:
        """Make every `.grad` NaN, so that the scaler skips the step."""
        self.scale(self.shared[0].device)  # a scaler that never scaled anything refuses to step
        for parameter in (*self.shared, *self.own):
            _accumulate(parameter, torch.full_like(parameter, torch.nan, requires_grad=False))
        return {"skipped": torch.ones((), dtype=torch.bool, device=self.shared[0].device)}


def _trainable(parameters: Iterable[Tensor] | nn.Module, group: str) -> list[Tensor]:
    if isinstance(parameters, nn.Module):
        parameters = parameters.parameters()
    if isinstance(parameters, Tensor):
        raise ValueError(
            f"{group} is a single tensor: give an iterable of parameters, such as [tensor]."
        )
    return [parameter for parameter in parameters if parameter.requires_grad]


def largest(tensors: Iterable[Tensor]) -> Tensor:
    """The largest absolute value `[]` of all entries, at least one, NaN if one is NaN; without a
    copy of any tensor.
    """
    ends = [torch.stack(torch.aminmax(tensor)) for tensor in tensors if tensor.numel()]
    return torch.cat(ends).abs().amax()


def _accumulate(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        # In the parameter's own memory layout, which fused optimisers rely on.
        parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
    else:
        parameter.grad += gradient
