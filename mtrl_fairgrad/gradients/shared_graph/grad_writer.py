"""Writing of combined gradients to `.grad`, in the units of a `GradScaler`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from mtrl_fairgrad.gradients.conventions import Convention
from mtrl_fairgrad.gradients.shared_graph.distributed import Processes


@dataclass(frozen=True)
class GradWriter:
    """Writes to `.grad` in the scaler's units, with equal results in all processes."""

    shared: list[Tensor]
    own: list[Tensor]
    scaler: GradScaler | None
    """None also for a scaler that is not enabled."""
    processes: Processes
    convention: Convention

    @classmethod
    def create(
        cls,
        shared: Iterable[Tensor],
        own: Iterable[Tensor],
        scaler: GradScaler | None,
        processes: Processes,
        convention: Convention,
    ) -> GradWriter:
        """Make a writer for those parameters that require a gradient.

        Raises:
            ValueError: no such shared parameter, a parameter that is given twice, or a tensor
                instead of an iterable.
        """
        shared, own = _trainable(shared, "shared"), _trainable(own, "own")
        if not shared:
            raise ValueError(
                "shared contains no parameter that requires a gradient: pass "
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
        """Return the scaler's factor of the losses, `[]`; 1 without a scaler."""
        one = torch.ones((), device=device)
        return one if self.scaler is None else self.scaler.scale(one)

    def overflowed(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether all processes must skip this step.

        They must if a scaler is in use and a tensor of any process is not finite.
        """
        return self.scaler is not None and bool(
            self.processes.sum((~largest(tensors).isfinite()).float()) > 0
        )

    def write(
        self, direction: dict[str, Tensor], own: Sequence[Tensor], losses: Tensor
    ) -> dict[str, Tensor]:
        """Apply the convention to a direction, and add it and the own gradients to `.grad`.

        With a scaler, all of `.grad` becomes NaN if a gradient is not finite.

        Returns:
            With a scaler, whether the step will be `skipped`; otherwise empty.
        """
        direction = self.convention.apply(direction, len(losses), batch_dims=0)
        factor = self.convention.own_factor(len(losses))
        own = own if factor == 1 else [gradient * factor for gradient in own]
        gradients = [*(direction[str(i)] for i in range(len(self.shared))), *own]
        scale, report = self.scale(losses.device), {}
        if self.scaler is not None:
            finite = largest(gradients).isfinite()
            scale, report = torch.where(finite, scale, torch.nan), {"skipped": ~finite}
        for parameter, gradient in zip([*self.shared, *self.own], gradients, strict=True):
            _accumulate(parameter, gradient * scale)
        return report

    def skip(self) -> dict[str, Tensor]:
        """Set every `.grad` to NaN, so that the scaler skips the step."""
        self.scale(self.shared[0].device)  # a scaler that has not scaled anything refuses to step
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
    """Return the largest absolute value `[]` of all entries (at least one), NaN if one is NaN.

    Copies no tensor.
    """
    ends = [torch.stack(torch.aminmax(tensor)) for tensor in tensors if tensor.numel()]
    return torch.cat(ends).abs().amax()


def _accumulate(parameter: Tensor, gradient: Tensor) -> None:
    if parameter.grad is None:
        # Keep the memory layout of the parameter, which fused optimisers rely on.
        parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
    else:
        parameter.grad += gradient
