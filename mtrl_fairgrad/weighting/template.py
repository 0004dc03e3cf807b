"""Base classes of Jacobian aggregations that know the parameters or average their gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import JacobianAggregation
from mtrl_fairgrad.weighting.products import align, real_view


class EntrySpec(NamedTuple):
    """Shape and dtype of one parameter's entry in a Jacobian."""

    shape: torch.Size
    """`[..., K, *shape]`."""
    dtype: torch.dtype


class TemplateAggregation(JacobianAggregation):
    """A Jacobian aggregation that needs the template of `init`."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: dict[str, EntrySpec] = {}

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Set the sizes from a Jacobian `template`, name -> `[..., K, *shape]`.

        Of complex rows, the `real_view` is the template.

        Raises:
            ValueError: `tasks` < 1, no template, or one with other leading axes or tasks.
        """
        template = {name: real_view(rows) for name, rows in (template or {}).items()}
        super().init(tasks, batch_shape, template)
        if not template:
            raise ValueError(
                f"{self.name} needs the parameters' shapes: call init(tasks={tasks}, template=…) "
                f"with jacobian_like(parameters, {tasks}) or any Jacobian, "
                "name -> [..., K, *shape]."
            )
        leading = (*self.batch_shape, tasks)
        for name, rows in template.items():
            if tuple(rows.shape[: len(leading)]) != leading:
                raise ValueError(
                    f"template['{name}'] of shape {tuple(rows.shape)} is not allowed: give [..., "
                    f"K, *shape], here beginning with {leading}."
                )
        self._entries = {name: EntrySpec(rows.shape, rows.dtype) for name, rows in template.items()}
        return self

    def _ordered(self, jacobian: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the Jacobian in the template's order, detached.

        Raises:
            ValueError: not initialised, complex rows, or other parameters or shapes than the
                template's.
        """
        if not self._entries:
            raise ValueError(
                f"{self.name} has state or random numbers: call init(tasks=K, template=…) once "
                "before its first use."
            )
        for name, rows in jacobian.items():
            if rows.is_complex():
                raise ValueError(
                    f"jacobian['{name}'] is complex, but {self.name} works on real coordinates: "
                    "give torch.view_as_real of it."
                )
        shapes = {name: rows.shape for name, rows in jacobian.items()}
        for name in (*self._entries, *shapes):
            known = self._entries[name].shape if name in self._entries else None
            if shapes.get(name) != known:
                here, there = (_describe(shape) for shape in (shapes.get(name), known))
                raise ValueError(
                    f"jacobian['{name}'] is {here} but was {there} in {self.name}'s init: call "
                    "init again with this Jacobian as template."
                )
        return {name: jacobian[name].detach() for name in self._entries}


def _describe(shape: torch.Size | None) -> str:
    return "missing" if shape is None else f"of shape {tuple(shape)}"


class AveragingAggregation(TemplateAggregation):
    """A Jacobian aggregation with a moving average of every task's gradients.

    The averages have the template's dtype and order. Every element of the leading axes counts its
    own calls, because a call that is not finite does not change its state.
    """

    calls: Tensor
    """`[...]` float64."""

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Set the averages to 0.

        Raises:
            ValueError: as `TemplateAggregation.init`.
        """
        super().init(tasks, batch_shape, template)
        for name in self._initial_values:  # an earlier template may have had more parameters
            delattr(self, name)
        self._initial_values.clear()
        for index, rows in enumerate(self._entries.values()):
            self._add_state(f"average_{index}", rows.shape, dtype=rows.dtype)
        self._add_state("calls", self.batch_shape)
        return self

    def _averages(self) -> dict[str, Tensor]:
        return {
            name: self.get_buffer(f"average_{index}") for index, name in enumerate(self._entries)
        }

    def _blend(
        self, jacobian: Mapping[str, Tensor], keep: Tensor, take: Tensor
    ) -> dict[str, Tensor]:
        """Return `keep · average + take · gradient`; the averages do not change.

        The factors are `[..., K]` or `[..., 1]`.
        """
        blended: dict[str, Tensor] = {}
        for name, average in self._averages().items():
            old, new = (align(factor.to(average.dtype), average) for factor in (keep, take))
            blended[name] = (old * average).addcmul_(new, jacobian[name].to(average.dtype))
        return blended

    def _accept(self, averages: Mapping[str, Tensor], valid: Tensor) -> None:
        """Store the averages and count the call where `valid` `[...]`."""
        for name, average in self._averages().items():
            torch.where(align(valid, average), averages[name], average, out=average)
        self.calls.add_(valid)
