"""Matrix products of two networks of equal sizes at once, for GPUs.

A GPU takes hardly longer for one large product than for each of several small ones. Under
`torch.func.vmap` over tasks, `torch.bmm` would copy weights that the tasks share for each task. The
functions here have their own vmap rules instead, by which the samples of all tasks become the rows
of one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

_Function: Any = torch.autograd.Function  # without complete annotations


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return `left @ right.mT` for `[N, ..., n, m]` and `[N, ..., p, m]`: `[N, ..., n, p]`.

    The axes before the last two are equal. Under vmap, an axis that both operands have becomes the
    second one, a batch axis; an axis of one operand is merged with its rows, so that the other one
    is not copied.
    """
    return _Product.apply(left, right)


def stack_pairs(firsts: Sequence[Tensor], seconds: Sequence[Tensor]) -> list[Tensor]:
    """Stack the tensors pair by pair as `[2, ...]`, all by one copy.

    Under vmap, an axis that both tensors of a pair have becomes its second one.

    Args:
        firsts: tensors of one dtype.
        seconds: as many, with the same shapes.
    """
    return list(_StackPairs.apply(*chain(*zip(firsts, seconds, strict=True))))


class _Product(_Function):
    @staticmethod
    def forward(left: Tensor, right: Tensor) -> Tensor:
        result = torch.bmm(left.flatten(0, -3), right.flatten(0, -3).mT)
        return result.unflatten(0, left.shape[:-2])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        of_left, of_right = ctx.needs_input_grad
        return (
            product(gradient, right.mT) if of_left else None,
            product(gradient.mT, left.mT) if of_right else None,
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], left: Tensor, right: Tensor
    ) -> tuple[Tensor, int]:
        of_left, of_right = in_dims
        if of_left is None:
            result, axis = _Product.vmap(info, (of_right, None), right, left)
            return result.mT, axis
        if of_right is None:
            left = left.movedim(of_left, -3)
            result = product(left.flatten(-3, -2), right).unflatten(-2, left.shape[-3:-1])
            return result, result.ndim - 3
        return product(left.movedim(of_left, 1), right.movedim(of_right, 1)), 1


class _StackPairs(_Function):
    @staticmethod
    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        firsts = tensors[::2]
        joined = torch.cat([tensor.reshape(-1) for tensor in tensors])
        parts = joined.split([2 * first.numel() for first in firsts])
        return tuple(part.view(2, *first.shape) for part, first in zip(parts, firsts, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(part for gradient in gradients for part in gradient.unbind())

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        moved = [
            tensor if axis is None else tensor.movedim(axis, 0)
            for tensor, axis in zip(tensors, in_dims, strict=True)
        ]
        return _StackPairs.apply(*moved), tuple(
            None if axis is None else 1 for axis in in_dims[::2]
        )
