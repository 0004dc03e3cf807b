"""Base classes of Jacobian aggregations that know the parameters or average their gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import JacobianAggregation
from mtrl_fairgrad.weighting.products import (
    Joined,
    align,
    join_rows,
    joinable,
    real_view,
    whole_parts,
)


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
        """Return the Jacobian in the template's order, detached; a `Joined` one of it as such.

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
        if isinstance(jacobian, Joined) and list(jacobian) == list(self._entries):
            return jacobian.with_whole(jacobian.whole.detach())
        return {name: jacobian[name].detach() for name in self._entries}


def _describe(shape: torch.Size | None) -> str:
    return "missing" if shape is None else f"of shape {tuple(shape)}"


class AveragingAggregation(TemplateAggregation):
    """A Jacobian aggregation with a moving average of every task's gradients.

    The averages have the template's dtype and order. Where Jacobians are `Joined`, the averages are
    views of one tensor too. Every element of the leading axes counts its own calls, because a call
    that is not finite does not change its state.
    """

    calls: Tensor
    """`[...]` float64."""

    def __init__(self) -> None:
        super().__init__()
        self._joined: Joined | None = None

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
        self._join_averages()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move the state; `to(device)` gives every buffer its own memory."""
        module: Any = super()
        module._apply(fn, recurse)
        self._join_averages()
        return self

    def __setstate__(self, state: Any) -> None:
        module: Any = super()
        module.__setstate__(state)
        self._joined = None  # a copy's views may have got memory of their own
        self._join_averages()

    def _join_averages(self) -> None:
        """Lay the averages behind one another in memory, on devices where that saves launches."""
        averages = self._averages()
        if isinstance(averages, Joined):
            return
        self._joined = None
        if not joinable(averages.values()):
            return
        axes, problems = len(self.batch_shape), math.prod(self.batch_shape)
        whole = join_rows(
            [rows.reshape(problems, *rows.shape[axes:]) for rows in averages.values()]
        )
        self._joined = Joined(
            whole.view(*self.batch_shape, *whole.shape[1:]),
            {name: rows.shape[axes + 1 :] for name, rows in averages.items()},
        )
        for index, view in enumerate(self._joined.values()):
            setattr(self, f"average_{index}", view)

    def _averages(self) -> dict[str, Tensor]:
        buffers = {
            name: self.get_buffer(f"average_{index}") for index, name in enumerate(self._entries)
        }
        # Whoever replaces a buffer, as `functional_call` does, wants that one to be used.
        joined = self._joined
        if joined is not None and all(buffers.get(name) is view for name, view in joined.items()):
            return joined
        return buffers

    def _blend(
        self, jacobian: Mapping[str, Tensor], keep: Tensor, take: Tensor
    ) -> dict[str, Tensor]:
        """Return `keep · average + take · gradient`; the averages do not change.

        The factors are `[..., K]` or `[..., 1]`.
        """

        def blend(average: Tensor, rows: Tensor) -> Tensor:
            old, new = (align(factor.to(average.dtype), average) for factor in (keep, take))
            return (old * average).addcmul_(new, rows.to(average.dtype))

        averages = self._averages()
        if isinstance(averages, Joined) and isinstance(jacobian, Joined):
            state, rows = averages.whole, jacobian.whole
            if state.shape == rows.shape:
                return averages.with_whole(blend(state, rows))
        return {name: blend(average, jacobian[name]) for name, average in averages.items()}

    def _accept(self, averages: Mapping[str, Tensor], valid: Tensor) -> None:
        """Store the averages and count the call where `valid` `[...]`."""
        old, new = self._averages(), averages
        if isinstance(old, Joined) and isinstance(new, Joined):
            old, new = whole_parts(old), whole_parts(new)
        for name, average in old.items():
            torch.where(align(valid, average), new[name], average, out=average)
        self.calls.add_(valid)
