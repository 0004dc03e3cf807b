"""Backward passes through one graph, of one task or of several tasks at once.

| a pass of | number of passes | memory in addition to the Jacobian | operations |
|---|---|---|---|
| one task | K, each through its own head | one gradient of `shared` and activations | any |
| n tasks | K/n, each operation batched | n of both | those that `vmap` can batch |

A pass of n tasks does the arithmetic of n passes in fewer and larger operations, and more of it in
the heads: n gradients pass through each head, all but one of them zero. That helps devices that are
idle during small operations, not a CPU. On one core with 40 tasks, CelebA's network and 8 images,
passes of 8 and of 40 tasks took 1.2 times the processor time of a loop (measured on any device by
`scripts/benchmark_memory.py`); at a quarter of its width, with the digits' network and with
perceptrons of 100 and 400 units it was 1.1 to 1.6 times.

Own gradients are computed task by task in both cases. For heads that is one pass through all heads
in total; own parameters that act before the shared ones (task embeddings) need K full passes, so
that a loop is best for them.

Results agree up to rounding. However, a non-finite derivative of one task makes the gradients of
all tasks in its pass non-finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.gradients.shared_graph.sharded import gradients_of

Gradients = Sequence[Tensor | None]
"""One gradient per tensor, None for a tensor without effect."""


class PassGradients(NamedTuple):
    """Gradients of n tasks' losses, multiplied by the scaler's factor, in autograd's layout."""

    shared: Gradients
    """By shared parameters (or the representation): each `[n, *shape]`, of one task `[*shape]`."""
    own: list[Gradients]
    """For each task by all own parameters, each `[*shape]`."""


def one_pass(
    losses: Sequence[Tensor],
    at: Sequence[Tensor],
    own: Sequence[Tensor],
    scale: Tensor,
    retain_graph: bool,
) -> PassGradients:
    """Compute the gradients of n losses by one pass through the graph that they share.

    Args:
        losses: n scalars; losses without a graph are allowed.
        at: shared parameters or the tensors of a representation.
        own: all own parameters.
        scale: factor of the losses, `[]`.
        retain_graph: keep the graph, also if the pass fails.

    Raises:
        RuntimeError: with several losses, if an operation cannot be batched or memory is not
            sufficient.
    """
    if len(losses) == 1:
        gradients = _single(losses[0], [*at, *own], scale, retain_graph)
        return PassGradients(gradients[: len(at)], [gradients[len(at) :]])
    # Own gradients task by task, each through one head. In a batch each head would get n gradients,
    # all but one of them zero.
    heads = [_single(loss, own, scale, retain_graph=True) for loss in losses]
    return PassGradients(_batched(losses, at, scale, retain_graph), heads)


def _single(
    loss: Tensor, tensors: Sequence[Tensor], scale: Tensor, retain_graph: bool
) -> Gradients:
    if not tensors or not loss.requires_grad:
        return [None] * len(tensors)
    return gradients_of([loss], tensors, [scale.to(loss.dtype)], retain_graph)


def _batched(
    losses: Sequence[Tensor], tensors: Sequence[Tensor], scale: Tensor, retain_graph: bool
) -> Gradients:
    vectors = scale * torch.eye(len(losses), device=scale.device)
    pairs = [
        (loss, row.to(loss.dtype))
        for loss, row in zip(losses, vectors, strict=True)
        if loss.requires_grad
    ]
    if not pairs:
        return [None] * len(tensors)
    outputs, rows = zip(*pairs, strict=True)
    try:
        return torch.autograd.grad(
            outputs,
            tensors,
            rows,
            retain_graph=retain_graph,
            allow_unused=True,
            is_grads_batched=True,
        )
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(". ")
        raise RuntimeError(
            f"a backward pass of {len(losses)} tasks together failed ({reason}): give a smaller "
            "tasks_per_pass, or 1, with which any operation works."
        ) from error


def default_tasks_per_pass(tasks: int, jacobian: Iterable[Tensor]) -> int:
    """Choose the number of tasks in a pass: on CUDA as many as certainly fit, elsewhere 1.

    The estimate reserves for each task as much memory as everything on the device except the
    Jacobian: weights, optimiser, data and graph. A pass has at most half of the tasks, so that the
    first of several passes shows whether the operations can be batched while the graph still exists
    for a loop.

    Args:
        tasks: K, at least 1.
        jacobian: the rows to add to, of all K tasks.
    """
    rows = list(jacobian)
    device = rows[0].device
    if device.type != "cuda":
        return 1
    held = torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - held
    others = held - sum(row.nbytes for row in rows)
    largest = max(1, min(free // max(1, others), (tasks + 1) // 2))
    passes = -(-tasks // largest)
    return -(-tasks // passes)  # passes of similar size
