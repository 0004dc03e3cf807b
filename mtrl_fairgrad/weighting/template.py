"""Jacobian aggregations that `init` tells which parameters they will see, and those that average
their gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.base import JacobianAggregation
from mtrl_fairgrad.weighting.products import align


class Rows(NamedTuple):
    """What is known of one parameter's entry in a Jacobian before there is one."""

    shape: torch.Size
    """`[..., K, *shape]`."""
    dtype: torch.dtype


class TemplateAggregation(JacobianAggregation):
    """A Jacobian aggregation that needs `init`'s template."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, Rows] = {}

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Learn the sizes from a Jacobian `template`, name -> `[..., K, *shape]`; its values do not
        matter.

        Raises:
            ValueError: no task, no template, or one with other leading axes or tasks.
        """
        super().init(tasks, batch_shape, template)
        if not template:
            raise ValueError(
                f"{self.name} must know the parameters: call init(tasks={tasks}, template=...) "
                "with "
                f"jacobian_like(parameters, {tasks}), or with any Jacobian, name -> [..., K, "
                "*shape]."
            )
        leading = (*self.batch_shape, tasks)
        for name, rows in template.items():
            if tuple(rows.shape[: len(leading)]) != leading:
                raise ValueError(
                    f"template['{name}'] of shape {tuple(rows.shape)} is not allowed: give [..., "
                    "K, *shape], here "
                    f"beginning with {leading}."
                )
        self._known = {name: Rows(rows.shape, rows.dtype) for name, rows in template.items()}
        return self

    def _ordered(self, jacobian: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The Jacobian in the template's order, without its graph.

        Raises:
            ValueError: not initialised, or other parameters or shapes than the template's.
        """
        if not self._known:
            raise ValueError(
                f"{self.name} remembers or draws: call its init(tasks=K, template=...) once before "
                "its use."
            )
        found = {name: rows.shape for name, rows in jacobian.items()}
        for name in (*self._known, *found):
            known = self._known[name].shape if name in self._known else None
            if found.get(name) != known:
                here, there = (_in_words(shape) for shape in (found.get(name), known))
                raise ValueError(
                    f"jacobian['{name}'] is {here} but was {there} in {self.name}'s init: call "
                    "init again with the present Jacobian as template."
                )
        return {name: jacobian[name].detach() for name in self._known}


def _in_words(shape: torch.Size | None) -> str:
    return "missing" if shape is None else f"of shape {tuple(shape)}"


class AveragingAggregation(TemplateAggregation):
    """A Jacobian aggregation that keeps an average of every task's gradients, in the template's
    dtype and order.

    Every element of the leading axes counts its own calls, as one that is not finite leaves no
    trace.
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
            ValueError: as of `TemplateAggregation.init`.
        """
        super().init(tasks, batch_shape, template)
        for name in self._initial_values:  # an earlier template may have had more parameters
            delattr(self, name)
        self._initial_values.clear()
        for index, rows in enumerate(self._known.values()):
            self._add_state(f"average_{index}", rows.shape, dtype=rows.dtype)
        self._add_state("calls", self.batch_shape)
        return self

    def _averages(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(f"average_{index}") for index, name in enumerate(self._known)}

    def _blend(
        self, jacobian: Mapping[str, Tensor], keep: Tensor, take: Tensor
    ) -> dict[str, Tensor]:
        """`keep · average + take · gradient`, with factors `[..., K]` or `[..., 1]`; the averages
        stay as they are.
        """
        blended: dict[str, Tensor] = {}
        for name, average in self._averages().items():
            old, new = (align(factor.to(average.dtype), average) for factor in (keep, take))
            blended[name] = (old * average).addcmul_(new, jacobian[name].to(average.dtype))
        return blended

    def _accept(self, averages: Mapping[str, Tensor], valid: Tensor) -> None:
        """Make these the averages and count the call, where `valid` `[...]`."""
        for name, average in self._averages().items():
            torch.where(align(valid, average), averages[name], average, out=average)
        self.calls.add_(valid)
