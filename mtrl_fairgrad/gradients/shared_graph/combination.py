"""From losses or gradient rows to `.grad`, by a method of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtrl_fairgrad.gradients.per_task import Tensors
from mtrl_fairgrad.gradients.shared_graph.features import propagate_direction
from mtrl_fairgrad.gradients.shared_graph.grad_writer import GradWriter, coordinates
from mtrl_fairgrad.gradients.shared_graph.graph import UNREACHED_SHARED
from mtrl_fairgrad.gradients.shared_graph.jacobian import GradientRows
from mtrl_fairgrad.gradients.shared_graph.losses import require_positive
from mtrl_fairgrad.gradients.shared_graph.notices import notice
from mtrl_fairgrad.gradients.shared_graph.reach import UNREACHED, Reach
from mtrl_fairgrad.gradients.shared_graph.sharded import (
    gradients_of,
    gramian_of_shards,
    is_sharded,
)
from mtrl_fairgrad.utils.validation import ConfigError
from mtrl_fairgrad.weighting import (
    GramianWeighting,
    JacobianAggregation,
    Method,
    jacobian_like,
)
from mtrl_fairgrad.weighting.base import unwrapped
from mtrl_fairgrad.weighting.template import AveragingAggregation

Noise = Tensor | torch.Generator | None


@dataclass(frozen=True)
class Combination:
    """One combination of task gradients by a method."""

    method: Method
    noise: Noise
    writer: GradWriter
    retain_graph: bool = False
    fall_back: bool = False

    def of_rows(self, rows: GradientRows, representation: list[Tensor] | None = None) -> Tensors:
        """Combine gradient rows, by shared parameters or by a representation; write the result."""
        method, writer = self.method, self.writer
        losses = writer.processes.mean(rows.losses)
        require_positive(method, losses)
        if writer.overflowed([losses, *rows.jacobian.values(), *rows.own.values()]):
            reach = rows.reach
            if representation is not None:  # a pass without effect, to see what it reaches
                zeros = {name: torch.zeros_like(row[0]) for name, row in rows.jacobian.items()}
                reach = self._propagate(representation, zeros, rows)[1]
            return writer.skip(writer.layouts(reach, rows.own_reach))
        layouts: list[int] = []
        if representation is None:
            layouts = writer.layouts(rows.reach, rows.own_reach)
            self._require_reached(layouts)
        # The parameters are the same in all processes, but a process's representation belongs to
        # its own samples: it is a part of the Jacobian's columns.
        if representation is None:
            writer.mean_rows(rows.jacobian)
        elif writer.processes.size > 1:
            for row in rows.jacobian.values():
                row /= writer.processes.size
        noise = self._prepare(losses, rows.jacobian)
        with torch.autocast(losses.device.type, enabled=False):
            observed = self._observe(losses, rows.jacobian, representation is not None)
            result = method(observed, **method.accepted(losses=losses, noise=noise))
            if self.fall_back:
                result = result.equal_where_unsolved()
            direction, diagnostics = method.direction(result, observed, rows.jacobian)
        if representation is not None:
            direction, reach = self._propagate(representation, direction, rows)
            layouts = writer.layouts(reach, rows.own_reach)
        own_weights = writer.convention.own_weights(method, diagnostics)
        own = [
            writer.mean(parameter, part)
            for parameter, part in zip(
                writer.own, rows.own_sums(writer.own, own_weights), strict=True
            )
        ]
        return self._finish(direction, own, losses, layouts, diagnostics)

    def of_losses(self, scalars: Sequence[Tensor]) -> Tensors:
        """Combine by a loss weighting: one backward pass of the weighted losses, without rows."""
        method, writer = self.method, self.writer
        vector = torch.stack(tuple(scalars))
        losses = writer.processes.mean(vector.detach())
        require_positive(method, losses)
        shared, own = writer.shared, writer.own
        reach, own_reach = Reach(len(shared)), Reach(len(own))
        if writer.overflowed([losses]):
            total = vector.sum()
            reached = gradients_of(
                [total], [*shared, *own], [torch.ones_like(total)], retain_graph=False
            )
            reach.note_all(reached[: len(shared)])
            own_reach.note_all(reached[len(shared) :])
            return writer.skip(writer.layouts(reach, own_reach))
        unknown = method.tasks is None
        noise = self._prepare(losses, jacobian_like(shared, len(losses)) if unknown else {})
        with torch.autocast(losses.device.type, enabled=False):
            weights, diagnostics = method(losses, **method.accepted(noise=noise))
        diagnostics = {**diagnostics, "weights": weights}
        own_weights = writer.convention.own_weights(method, diagnostics)
        scale = writer.scale(losses.device)

        def gradients(
            weights: Tensor | None, parameters: list[Tensor], retain_graph: bool
        ) -> Sequence[Tensor | None]:
            # A task without weight is left out even where its loss is not finite.
            total = (
                vector.sum()
                if weights is None
                else torch.where(weights != 0, weights * vector, 0).sum()
            )
            return gradients_of([total], parameters, [scale.to(total.dtype)], retain_graph)

        if own_weights is weights:
            both = gradients(weights, shared + own, self.retain_graph)
            of_shared, of_own = both[: len(shared)], both[len(shared) :]
        else:
            of_own = gradients(own_weights, own, retain_graph=True) if own else ()
            of_shared = gradients(weights, shared, self.retain_graph)
        reach.note_all(of_shared)
        own_reach.note_all(of_own)
        layouts = writer.layouts(reach, own_reach)
        self._require_reached(layouts)

        def means(found: Sequence[Tensor | None], parameters: list[Tensor]) -> list[Tensor]:
            parts = [
                coordinates(gradient, parameter)
                for gradient, parameter in zip(found, parameters, strict=True)
            ]
            if writer.scaler is not None:
                parts = [part / scale for part in parts]
            return list(map(writer.mean, parameters, parts))

        direction = {str(i): part for i, part in enumerate(means(of_shared, shared))}
        return self._finish(direction, means(of_own, own), losses, layouts, diagnostics)

    def _prepare(self, losses: Tensor, jacobian: Tensors) -> Tensor | None:
        """Initialise the method where nobody has, and return the noise of this call.

        It is on the losses' device and the same in all processes.
        """
        noise = self.noise
        if isinstance(noise, torch.Generator):
            self.method.init_once(losses, jacobian)
            noise = self.method.draw([noise])
        noise = self.method.prepare(losses, jacobian, noise)
        return None if noise is None else self.writer.processes.first(noise.to(losses.device))

    def _observe(self, losses: Tensor, jacobian: Tensors, represented: bool) -> Any:
        """Return what the method sees, of all processes."""
        if isinstance(self.method, GramianWeighting) and not represented and self.writer.sharded:
            return gramian_of_shards(jacobian, self.writer.shared)
        observed = self.method.observe(losses, jacobian, batch_dims=0)
        if isinstance(self.method, GramianWeighting) and represented:
            return self.writer.processes.sum(observed)
        return observed

    def _propagate(
        self, representation: list[Tensor], direction: Tensors, rows: GradientRows
    ) -> tuple[Tensors, Reach]:
        return propagate_direction(
            representation, direction, rows.jacobian, self.writer, self.retain_graph
        )

    def _require_reached(self, layouts: Sequence[int]) -> None:
        if all(layout == UNREACHED for layout in layouts[: len(self.writer.shared)]):
            raise ValueError(UNREACHED_SHARED)

    def _finish(
        self,
        direction: Tensors,
        own: Sequence[Tensor],
        losses: Tensor,
        layouts: Sequence[int],
        diagnostics: Tensors,
    ) -> Tensors:
        """Write the gradients and return the diagnostics."""
        report = self.writer.write(direction, own, losses, layouts)
        if self.fall_back and "converged" in diagnostics:
            report["fell_back"] = ~diagnostics["converged"]
        if self.writer.scaler is None:
            notice(self.method, losses, diagnostics, self.fall_back)
        return diagnostics | report


def check_shards_allowed(
    writer: GradWriter,
    method: Method | None,
    tasks_per_pass: int | None,
    representation: object = None,
) -> int | None:
    """Check that gradients can be computed and combined in shards, if there are any.

    Returns:
        `tasks_per_pass`, 1 by default with shards.

    Raises:
        ValueError: a method that needs every coordinate, or several tasks in a pass.
    """
    if writer.sharded and representation is None and isinstance(method, JacobianAggregation):
        raise ValueError(
            f"{method.name} needs every coordinate, but fully_shard distributes them over the "
            "processes: choose a method that needs the Gramian or the losses only."
        )
    if not any(map(is_sharded, (*writer.shared, *writer.own))):
        return tasks_per_pass
    if tasks_per_pass not in (None, 1):
        raise ConfigError(
            f"tasks_per_pass={tasks_per_pass} is not allowed with fully_shard, whose hooks see one "
            "gradient in a pass: give 1 or None.",
            "tasks_per_pass",
            tasks_per_pass,
        )
    return 1


def check_representation_allowed(method: Method, processes: int) -> None:
    """Check that a method can combine at a representation.

    Raises:
        ValueError: it cannot.
    """
    inner = unwrapped(method)
    if isinstance(inner, AveragingAggregation):
        raise ValueError(
            f"{inner.name} averages gradients over batches, but every batch has another "
            "representation: leave representation out, or choose another method."
        )
    if processes > 1 and isinstance(method, JacobianAggregation):
        raise ValueError(
            f"{method.name} needs every coordinate, but a representation is distributed over the "
            "processes: leave representation out, or choose a method that needs the Gramian only."
        )
