"""Combining gradients at a representation in the middle of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from mtrl_fairgrad.gradients.shared_graph.grad_writer import GradWriter, largest

Edge = tuple[Node | None, int]


def check_representation(
    representation: Tensor | Sequence[Tensor], losses: Sequence[Tensor], shared: Sequence[Tensor]
) -> list[Tensor]:
    """Check that the shared parameters act on the losses only through a representation.

    Returns its tensors. Costs one traversal of the graph and no arithmetic.

    Raises:
        ValueError: a tensor without graph, a tensor that no loss depends on, a tensor computed from
            another, or a shared parameter that acts on a loss directly.
    """
    tensors = [representation] if isinstance(representation, Tensor) else list(representation)
    if not tensors:
        raise ValueError(
            "representation is empty: give the encoder's output, or leave representation out."
        )
    ends: list[Node] = []
    for index, tensor in enumerate(tensors):
        if tensor.grad_fn is None:
            raise ValueError(
                f"representation {index} has no graph: give the encoder's output as it is, without "
                "detach or no_grad."
            )
        ends.append(tensor.grad_fn)
    edges = [_edge(tensor) for tensor in tensors]
    visited = _reached([_edge(loss) for loss in losses if loss.requires_grad], stop=set(edges))
    for index, (edge, end) in enumerate(zip(edges, ends, strict=True)):
        if edge not in visited:
            raise ValueError(
                f"representation {index} reaches no loss: give the tensor that the losses were "
                "computed from."
            )
        if not _reached(end.next_functions).isdisjoint(edges):
            raise ValueError(
                f"representation {index} is computed from another: give only tensors of which none "
                "depends on another."
            )
    for index, parameter in enumerate(shared):
        if _edge(parameter) in visited:
            raise ValueError(
                f"shared parameter {index} acts on a loss outside the representation: give a "
                "representation through which all shared parameters act, or none."
            )
    return tensors


def _edge(tensor: Tensor) -> Edge:
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _reached(starts: Iterable[Edge], stop: set[Edge] | None = None) -> set[Edge]:
    """Return all edges of the graph between `starts` and the leaves or the edges in `stop`."""
    reached: set[Edge] = set()
    ahead = list(starts)
    while ahead:
        edge = ahead.pop()
        if edge[0] is None or edge in reached:
            continue
        reached.add(edge)
        if stop is None or edge not in stop:
            ahead.extend(edge[0].next_functions)
    return reached


def propagate_direction(
    representation: Sequence[Tensor],
    direction: dict[str, Tensor],
    jacobian: dict[str, Tensor],
    writer: GradWriter,
) -> dict[str, Tensor]:
    """Propagate the direction from the representation to the shared parameters.

    Costs one backward pass.

    Args:
        representation: this process's tensors.
        direction: position of a tensor of the representation -> `[*shape]`.
        jacobian: the rows that the direction combines.
        writer: the shared parameters, and the processes with other samples' representations.

    Returns:
        Position of a shared parameter -> `[*shape]`, the same in all processes.
    """
    scale = writer.scale(representation[0].device)
    if writer.scaler is not None:
        # The scaled Jacobian fits half precision, but a direction may be much larger: scale it to
        # the Jacobian's size for the pass.
        reference, actual = largest(jacobian.values()), largest(direction.values())
        scale = torch.where((reference > 0) & (actual > 0), scale * reference / actual, scale)
    outputs = [
        (direction[str(i)] * scale).to(tensor.dtype) for i, tensor in enumerate(representation)
    ]
    gradients = torch.autograd.grad(representation, writer.shared, outputs, materialize_grads=True)
    return {str(i): writer.processes.sum(gradient / scale) for i, gradient in enumerate(gradients)}
