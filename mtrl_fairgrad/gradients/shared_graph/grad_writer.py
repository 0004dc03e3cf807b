"""Writing of combined gradients to `.grad`, in the units of a `GradScaler`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from mtrl_fairgrad.gradients.conventions import Convention
from mtrl_fairgrad.gradients.shared_graph import tensor_lists
from mtrl_fairgrad.gradients.shared_graph.distributed import Processes
from mtrl_fairgrad.gradients.shared_graph.parameters import Parameters, trainable
from mtrl_fairgrad.gradients.shared_graph.reach import DENSE, UNREACHED, Reach
from mtrl_fairgrad.gradients.shared_graph.sharded import (
    check_sharded,
    hooks_after_grad,
    is_sharded,
    shard_of,
    sum_over_shards,
    with_layout_of,
)
from mtrl_fairgrad.utils.validation import ConfigError
from mtrl_fairgrad.weighting.products import real_view, undo_real_view


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
        shared: Parameters,
        own: Parameters,
        scaler: GradScaler | None,
        processes: Processes,
        convention: Convention,
    ) -> GradWriter:
        """Make a writer for those parameters that require a gradient.

        Raises:
            ValueError: no such shared parameter, shared parameters on several devices, a parameter
                that is given twice, or as `trainable`.
        """
        shared, own = trainable(shared, "shared"), trainable(own, "own")
        if not shared:
            raise ConfigError(
                "shared contains no parameter that requires a gradient: pass "
                "model.encoder.parameters().",
                "shared",
                [],
            )
        devices = sorted({str(parameter.device) for parameter in shared})
        if len(devices) > 1:
            raise ConfigError(
                f"shared parameters are on devices {', '.join(devices)}: move them to one device, "
                "on which their gradients can be combined.",
                "shared",
                devices,
            )
        if len({id(parameter) for parameter in (*shared, *own)}) < len(shared) + len(own):
            raise ValueError(
                "a parameter is given twice: list each once, under shared or under own."
            )
        check_sharded([*shared, *own], processes)
        return cls(
            shared,
            own,
            scaler if scaler is not None and scaler.is_enabled() else None,
            processes,
            convention,
        )

    @property
    def sharded(self) -> bool:
        """Whether this process has a shard of a shared parameter only."""
        return any(map(is_sharded, self.shared))

    @property
    def device(self) -> torch.device:
        """The device of the shared parameters."""
        return self.shared[0].device

    def scale(self, device: torch.device) -> Tensor:
        """Return the scaler's factor of the losses, `[]`; 1 without a scaler."""
        one = torch.ones((), device=device)
        return one if self.scaler is None else self.scaler.scale(one)

    def overflowed(self, tensors: Iterable[Tensor]) -> bool:
        """Return whether all processes must skip this step.

        They must if a scaler is in use and a tensor of any process is not finite.
        """
        return self.scaler is not None and bool(self._has_overflow(tensors))

    def _has_overflow(self, tensors: Iterable[Tensor]) -> Tensor:
        """Return whether a tensor of any process is not finite, `[]` bool."""
        return self.processes.sum((~largest(tensors).isfinite()).float()) > 0

    def mean(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """Return a gradient's mean over all processes; shards have it from the backward pass."""
        return gradient if is_sharded(parameter) else self.processes.mean(gradient)

    def sum(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """Return a gradient's sum over all processes, as `mean`."""
        if is_sharded(parameter):
            return gradient * self.processes.size
        return self.processes.sum(gradient)

    def mean_rows(self, rows: dict[str, Tensor]) -> None:
        """Replace rows of the shared parameters' Jacobian by their means over all processes."""
        for parameter, row in zip(self.shared, rows.values(), strict=True):
            if not is_sharded(parameter):
                self.processes.mean_(row)

    def layouts(self, shared: Reach, own: Reach) -> list[int]:
        """Return the layouts of all gradients over all processes, see `Reach.over`."""
        return shared.over(self.processes, self.device) + own.over(self.processes, self.device)

    def write(
        self,
        direction: dict[str, Tensor],
        own: Sequence[Tensor],
        losses: Tensor,
        layouts: Sequence[int],
    ) -> dict[str, Tensor]:
        """Apply the convention to a direction, and add it and the own gradients to `.grad`.

        `.grad` of an unreached parameter stays as it is. With a scaler, all others become NaN if a
        gradient is not finite.

        Args:
            direction: position of a shared parameter -> `coordinates`.
            own: `coordinates` of the own gradients.
            losses: `[K]`.
            layouts: of the gradients of the shared and then of the own parameters, see
                `Reach.over`.

        Returns:
            With a scaler, whether the step will be `skipped`; otherwise empty.
        """
        total = partial(sum_over_shards, parameters=self.shared) if self.sharded else None
        direction = self.convention.apply(direction, len(losses), batch_dims=0, total=total)
        factor = self.convention.own_factor(len(losses))
        own = own if factor == 1 else [gradient * factor for gradient in own]
        gradients = [*(direction[str(i)] for i in range(len(self.shared))), *own]
        report = dict[str, Tensor]()
        if self.scaler is not None:
            # Without shards, gradients are the same in all processes.
            skipped = (
                self._has_overflow(gradients) if self.sharded else ~largest(gradients).isfinite()
            )
            scale = torch.where(skipped, torch.nan, self.scale(losses.device))
            gradients, report = [gradient * scale for gradient in gradients], {"skipped": skipped}
        self._accumulate(gradients, layouts)
        return report

    def skip(self, layouts: Sequence[int]) -> dict[str, Tensor]:
        """Set `.grad` of every reached parameter to NaN, so that the scaler skips the step."""
        self.scale(self.device)  # a scaler that has not scaled anything refuses to step
        parameters = [*self.shared, *self.own]
        self._accumulate(
            [torch.full_like(real_view(shard_of(each)), torch.nan) for each in parameters], layouts
        )
        return {"skipped": torch.ones((), dtype=torch.bool, device=self.device)}

    def _accumulate(self, gradients: Sequence[Tensor], layouts: Sequence[int]) -> None:
        """Add `coordinates` to `.grad` as `Tensor.backward` would, and run the hooks for it.

        Args:
            gradients: of the shared and then of the own parameters.
            layouts: of each, `UNREACHED` to leave it out.
        """
        reached = [
            (parameter, with_layout_of(parameter, undo_real_view(gradient, parameter)), layout)
            for parameter, gradient, layout in zip(
                [*self.shared, *self.own], gradients, layouts, strict=True
            )
            if layout != UNREACHED
        ]
        targets, sources = list[Tensor](), list[Tensor]()
        sums, parts = list[Tensor](), list[Tensor]()
        for parameter, gradient, layout in reached:
            plain = layout == DENSE and not is_sharded(parameter)
            if plain and parameter.grad is None:
                # Keep the memory layout of the parameter, which fused optimisers rely on.
                parameter.grad = torch.empty_like(parameter, requires_grad=False)
                targets.append(parameter.grad)
                sources.append(gradient)
            elif plain and parameter.grad is not None and parameter.grad.layout == torch.strided:
                sums.append(parameter.grad)
                parts.append(gradient)
            else:
                _accumulate(parameter, gradient, layout)
        tensor_lists.copy_(targets, sources)
        tensor_lists.add_(sums, parts)
        with torch.no_grad():
            for parameter, _, _ in reached:
                for hook in list(hooks_after_grad(parameter).values()):
                    hook(parameter)


def largest(tensors: Iterable[Tensor]) -> Tensor:
    """Return the largest absolute value `[]` of all entries, NaN if one is NaN, 0 of none.

    Copies no tensor.
    """
    tensors = list(tensors)
    ends = [torch.stack(torch.aminmax(tensor)) for tensor in tensors if tensor.numel()]
    return torch.cat(ends).abs().amax() if ends else tensors[0].new_zeros(())


def coordinates(gradient: Tensor | None, like: Tensor | None = None) -> Tensor:
    """Return the dense, real coordinates of a gradient, in which methods combine: see `real_view`.

    Args:
        gradient: of any layout; None for no effect.
        like: the parameter, for zeros in place of None.
    """
    if gradient is None:
        assert like is not None
        return torch.zeros_like(real_view(shard_of(like)))
    return real_view(gradient if gradient.layout == torch.strided else gradient.to_dense())


def _accumulate(parameter: Tensor, gradient: Tensor, layout: int) -> None:
    """Add the gradient of a sharded parameter, or one that is or was sparse, to `.grad`.

    Args:
        parameter: a parameter.
        gradient: dense, in the parameter's type.
        layout: 0 for dense, otherwise the number of sparse dimensions.
    """
    if layout != DENSE:
        gradient = gradient.to(parameter.dtype).to_sparse(layout)
    if parameter.grad is not None and parameter.grad.layout == torch.strided:
        parameter.grad += gradient
    elif parameter.grad is not None:
        parameter.grad = gradient + parameter.grad  # a sum with a dense part is dense
    elif layout != DENSE:
        parameter.grad = gradient
    else:
        parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
