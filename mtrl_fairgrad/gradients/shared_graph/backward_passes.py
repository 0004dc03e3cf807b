"""Backward passes through one graph, of one task each or of several tasks together.

| a pass of | number | memory beside the Jacobian | operations |
|---|---|---|---|
| one task | K, each through its own head only | one gradient of `shared`, one of what lies between | any |
| n tasks | K/n, each operation batched | n of both | those that `vmap` batches |

Together, n tasks are the arithmetic of n passes in fewer and larger operations, and more of it in
the heads, through each of which n gradients go, all but one of them zero. That helps a device which
small operations leave idle, not a CPU. There, on one core and with 40 tasks, CelebA's network and 8
images, passes of 8 and of 40 tasks took 1.2 times the processor time of a loop
(`scripts/benchmark_memory.py`, which measures both ways on any device); at a quarter of its width,
with the digits' network and with perceptrons of 100 and 400 units it was 1.1 to 1.6 times.

Own gradients are found task by task in either case. Those of heads cost one pass through the heads
altogether; only own parameters that act before the shared ones (task embeddings) take K full
passes, so that a loop is best for them.

Results agree up to rounding. But where a task's derivative is not finite, neither are the gradients
of the other tasks in its pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Gradients = Sequence[Tensor | None]
"""One for each tensor, None where it has no effect."""


class Pass(NamedTuple):
    """Gradients of n tasks' losses, times the scaler's factor."""

    shared: Gradients
    """At the shared parameters (or the representation): each `[n, *shape]`, or of one task
    `[*shape]`.
    """
    own: list[Gradients]
    """Of each task, at all own parameters: each `[*shape]`."""


def one_pass(
    losses: Sequence[Tensor],
    at: Sequence[Tensor],
    own: Sequence[Tensor],
    scale: Tensor,
    retain_graph: bool,
) -> Pass:
    """Gradients of n losses, any of which may lack a graph, by one pass through what they share.

    Raises:
        RuntimeError: of several, an operation cannot be batched or memory does not suffice. The
            graph stays whole if it is retained.
    """
    if len(losses) == 1:
        found = _alone(losses[0], [*at, *own], scale, retain_graph)
        return Pass(found[: len(at)], [found[len(at) :]])
    # Own ones task by task, each through one head: together each would have n gradients, all but
    # one of them zero.
    heads = [_alone(loss, own, scale, retain_graph=True) for loss in losses]
    return Pass(_together(losses, at, scale, retain_graph), heads)


def _alone(loss: Tensor, tensors: Sequence[Tensor], scale: Tensor, retain_graph: bool) -> Gradients:
    if not tensors or not loss.requires_grad:
        return [None] * len(tensors)
    found = torch.autograd.grad(
        loss, tensors, scale.to(loss.dtype), retain_graph=retain_graph, allow_unused=True
    )
    return [_dense(gradient) for gradient in found]


def _together(
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
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise RuntimeError(
            f"a backward pass of {len(losses)} tasks together failed ({reason}): give a smaller "
            "tasks_per_pass, or 1, with which any operation works."
        ) from error


def _dense(gradient: Tensor | None) -> Tensor | None:
    # Rows are dense, and what adds to them takes no sparse tensor, such as an embedding's gradient
    # may be.
    return gradient if gradient is None or gradient.layout == torch.strided else gradient.to_dense()


def chosen(tasks: int, jacobian: Iterable[Tensor]) -> int:
    """How many tasks a pass has where the caller leaves it open: on CUDA as many as surely fit,
    elsewhere 1.

    Surely, because each is granted what everything on the device but the Jacobian takes: weights,
    optimiser, data and graph. At most half of the tasks, so that the first of several passes shows
    whether they can go together, while the graph is still there for another way.

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
    most = max(1, min(free // max(1, others), (tasks + 1) // 2))
    passes = -(-tasks // most)
    return -(-tasks // passes)  # passes of much the same size
