"""Products with Jacobians, which are mappings from parameter name to `[..., K, *shape]`.

A GPU takes longer to launch one product per parameter than to compute them. There the entries of
one backward pass lie in one tensor (`Joined`), so that each product is one launch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def jacobian_like(parameters: Iterable[Tensor], tasks: int) -> dict[str, Tensor]:
    """Make the template of `Method.init` for the parameters given to `backward` as `shared`.

    Returns:
        Position of each parameter that requires a gradient -> `[K, *shape]`, without own memory; of
        complex parameters as `real_view`.
    """
    trainable = [
        real_view(parameter.detach()) for parameter in parameters if parameter.requires_grad
    ]
    return {
        str(i): parameter.expand(tasks, *parameter.shape) for i, parameter in enumerate(trainable)
    }


def real_view(tensor: Tensor) -> Tensor:
    """View a complex tensor `[*shape]` as real `[*shape, 2]`; return a real one as it is.

    Real and imaginary part of a complex parameter are two real parameters, and PyTorch's gradient
    holds the derivative by each: the inner product of two gradients is `Re⟨g_i, g_j⟩`.
    """
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def undo_real_view(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a real `tensor` as a complex one where `like` is complex: undoes `real_view`."""
    return torch.view_as_complex(tensor.contiguous()) if like.is_complex() else tensor


def align(factors: Tensor, rows: Tensor) -> Tensor:
    """Append axes of length 1 to `factors` to broadcast with `rows`, which begin with its axes."""
    return factors.reshape((*factors.shape, *(1,) * (rows.ndim - factors.ndim)))


def flatten(rows: Tensor, axes: int) -> Tensor:
    """Flatten all axes after the first `axes` into one, of length 1 if there is none."""
    return rows.flatten(axes) if rows.ndim > axes else rows.unsqueeze(-1)


@contextmanager
def _full_precision() -> Generator[None]:
    """Disable TF32 and bfloat16 in matrix products: the solvers need full float32 precision."""
    known: Any = torch.backends  # its attributes lack annotations
    backends = (known.cuda.matmul, known.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


class Joined(dict[str, Tensor]):
    """A mapping from parameter name to `[*axes, *shape]` whose entries are views of one tensor.

    Args:
        whole: `[*axes, N]` with the entries behind one another; more columns are not used.
        shapes: name -> `shape`, in the order of the columns.
    """

    def __init__(self, whole: Tensor, shapes: Mapping[str, torch.Size]) -> None:
        super().__init__()
        self.whole, self.shapes = whole, dict(shapes)
        column = 0
        for name, shape in shapes.items():
            part = whole.narrow(-1, column, shape.numel())
            self[name] = part.view((*whole.shape[:-1], *shape))
            column += shape.numel()

    def with_whole(self, whole: Tensor) -> Joined:
        """Return the mapping of another tensor `[*axes, N]` with the same columns."""
        return Joined(whole, self.shapes)

    @property
    def columns(self) -> Tensor:
        """The columns of `whole` that are used, `[*axes, P]`."""
        return self.whole.narrow(-1, 0, sum(shape.numel() for shape in self.shapes.values()))


def joinable(tensors: Iterable[Tensor]) -> bool:
    """Return whether tensors are worth joining: real ones of one type, all on one GPU."""
    kinds = {(tensor.device, tensor.dtype) for tensor in tensors}
    if len(kinds) != 1:
        return False
    device, dtype = kinds.pop()
    return device.type == "cuda" and dtype.is_floating_point


def join(tensors: Mapping[str, Tensor]) -> Joined:
    """Copy tensors `[S, *shape]` of one type into one tensor `[S, N]`."""
    whole = torch.cat([flatten(tensor, 1) for tensor in tensors.values()], -1)
    return Joined(whole, {name: tensor.shape[1:] for name, tensor in tensors.items()})


def join_rows(rows: Sequence[Tensor]) -> Tensor:
    """Join task gradients `[S, K, *shape]` of one type to one tensor `[S, K, N]`.

    N is a multiple of `GRAMIAN_CHUNK`, filled up with zeros, and a task's rows of all seeds are
    neighbours in memory: so the pieces of all seeds are one batch of matrices without a copy.
    """
    flat = [flatten(each, 2).transpose(0, 1) for each in rows]
    missing = -sum(each.shape[-1] for each in flat) % GRAMIAN_CHUNK
    if missing:
        flat.append(flat[0].new_zeros(*flat[0].shape[:2], missing))
    return torch.cat(flat, -1).transpose(0, 1)


def whole_parts(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the one tensor of a `Joined` mapping as its only entry, and others as they are."""
    return {"": tensors.whole} if isinstance(tensors, Joined) else tensors


def each_part(
    function: Callable[[Tensor], Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Apply a function to every entry, to a `Joined` mapping in one call.

    Args:
        function: takes `[*axes, *shape]`; acts on every coordinate separately.
        tensors: name -> `[*axes, *shape]`.
    """
    if isinstance(tensors, Joined):
        return tensors.with_whole(function(tensors.whole))
    return {name: function(part) for name, part in tensors.items()}


def gramian(jacobian: Mapping[str, Tensor], batch_dims: int = 0) -> Tensor:
    """Compute all inner products of task gradients, `M = JJᵀ`, summed over parameters.

    Args:
        jacobian: name -> `[*batch, K, *shape]` with `batch_dims` leading batch axes; at least one
            entry. Of complex gradients the real parts of their inner products count.
        batch_dims: number of axes before the task axis.

    Returns:
        `[*batch, K, K]`; float64 for float64 gradients, otherwise float32 (half precision is
        widened first, and TF32 is switched off for the products).
    """
    if not jacobian:
        raise ValueError(
            "The Jacobian is empty: give at least one shared parameter that requires a gradient."
        )
    total: Tensor | None = None
    with _full_precision():
        for rows in whole_parts(jacobian).values():
            flat = flatten(real_view(rows), batch_dims + 1)
            if flat.dtype not in (torch.float32, torch.float64):
                flat = flat.float()
            product = _self_products(flat)
            total = product if total is None else total + product
    assert total is not None
    return total


GRAMIAN_CHUNK = 2048
MANY_TASKS = 32
"""From this K on, two products with three quarters of the arithmetic are faster than one."""


def _self_products(rows: Tensor) -> Tensor:
    """Compute `rows @ rows.mT` for few, very long rows `[..., K, P]` as products of pieces.

    BLAS splits the outer sides of a product, not the long inner one: pieces are four times as fast
    on CPU. Problems of a batch are computed one by one there, because pieces of several problems
    would have to be copied.
    """
    if rows.is_cuda:
        return batched_self_products(rows)
    if rows.ndim > 2:
        return torch.stack([_self_products(each) for each in rows.unbind()])
    whole = rows.shape[-1] // GRAMIAN_CHUNK * GRAMIAN_CHUNK
    rest = rows[:, whole:]
    product = rest @ rest.mT
    if whole:
        pieces = rows[:, :whole].reshape(len(rows), -1, GRAMIAN_CHUNK).transpose(0, 1)
        product = product + _sum_of_products(pieces)
    return product


def batched_self_products(rows: Tensor) -> Tensor:
    """Compute `rows @ rows.mT` for rows `[..., K, P]` in few launches, as products of pieces."""
    *batch, tasks, length = rows.shape
    whole = length // GRAMIAN_CHUNK * GRAMIAN_CHUNK
    if not whole:
        return rows @ rows.mT
    pieces = rows.narrow(-1, 0, whole).view(*batch, tasks, -1, GRAMIAN_CHUNK).transpose(-3, -2)
    matrices = pieces.reshape(-1, tasks, GRAMIAN_CHUNK)  # a view of the result of `join_rows`
    product = (matrices @ matrices.mT).view(*batch, -1, tasks, tasks).sum(-3)
    if whole == length:
        return product
    rest = rows.narrow(-1, whole, length - whole)
    return product + rest @ rest.mT


def _sum_of_products(pieces: Tensor) -> Tensor:
    """Sum `piece @ piece.mT` over `[pieces, K, length]`.

    With many tasks, one of the two equal off-diagonal blocks is copied instead of computed.
    """
    half = pieces.shape[1] // 2
    if half < MANY_TASKS // 2:
        return (pieces @ pieces.mT).sum(0)
    first, second = pieces[:, :half], pieces[:, half:]
    left, right = (pieces @ first.mT).sum(0), (second @ second.mT).sum(0)
    return torch.cat([left, torch.cat([left[half:].mT, right], 0)], 1)


def contract(weights: Tensor, jacobian: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute the direction `d = Σ_i w_i g_i`.

    Args:
        weights: `[*batch, K]`.
        jacobian: name -> `[*batch, K, *shape]`.

    Returns:
        name -> `[*batch, *shape]`, in the Jacobian's dtype.
    """
    axes = weights.ndim

    def one(rows: Tensor) -> Tensor:
        flat = flatten(rows, axes)
        # Weights may overflow half precision although the direction does not.
        wide = torch.promote_types(rows.dtype, torch.float32)
        product = (weights.to(wide).unsqueeze(-2) @ flat.to(wide)).to(rows.dtype)
        return product.squeeze(-2).reshape((*rows.shape[: axes - 1], *rows.shape[axes:]))

    with _full_precision():
        return each_part(one, jacobian)
