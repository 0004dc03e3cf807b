"""Combining gradients at a representation in the middle of the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import Node

from mtrl_fairgrad.gradients.shared_graph.grad_writer import GradWriter, coordinates, largest
from mtrl_fairgrad.gradients.shared_graph.graph import edge_of, reached_edges
from mtrl_fairgrad.gradients.shared_graph.reach import Reach
from mtrl_fairgrad.gradients.shared_graph.sharded import gradients_of
from mtrl_fairgrad.weighting.products import undo_real_view


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
    edges = [edge_of(tensor) for tensor in tensors]
    visited = reached_edges(
        [edge_of(loss) for loss in losses if loss.requires_grad], stop=set(edges)
    )
    for index, (edge, end) in enumerate(zip(edges, ends, strict=True)):
        if edge not in visited:
            raise ValueError(
                f"representation {index} reaches no loss: give the tensor that the losses were "
                "computed from."
            )
        if not reached_edges(end.next_functions).isdisjoint(edges):
            raise ValueError(
                f"representation {index} is computed from another: give only tensors of which none "
                "depends on another."
            )
    for index, parameter in enumerate(shared):
        if edge_of(parameter) in visited:
            raise ValueError(
                f"shared parameter {index} acts on a loss outside the representation: give a "
                "representation through which all shared parameters act, or none."
            )
    return tensors


def propagate_direction(
    representation: Sequence[Tensor],
    direction: dict[str, Tensor],
    jacobian: dict[str, Tensor],
    writer: GradWriter,
    retain_graph: bool,
) -> tuple[dict[str, Tensor], Reach]:
    """Propagate the direction from the representation to the shared parameters.

    Costs one backward pass.

    Args:
        representation: this process's tensors.
        direction: position of a tensor of the representation -> `[*shape]`.
        jacobian: the rows that the direction combines.
        writer: the shared parameters, and the processes with other samples' representations.
        retain_graph: keep the graph.

    Returns:
        Position of a shared parameter -> `[*shape]`, the same in all processes, and which shared
        parameters it reached in this process.
    """
    scale = writer.scale(representation[0].device)
    if writer.scaler is not None:
        # The scaled Jacobian fits half precision, but a direction may be much larger: scale it to
        # the Jacobian's size for the pass.
        reference, actual = largest(jacobian.values()), largest(direction.values())
        scale = torch.where((reference > 0) & (actual > 0), scale * reference / actual, scale)
    outputs = [
        undo_real_view(direction[str(i)] * scale, tensor).to(tensor.dtype)
        for i, tensor in enumerate(representation)
    ]
    gradients = gradients_of(representation, writer.shared, outputs, retain_graph)
    reach = Reach(len(writer.shared))
    reach.note_all(gradients)
    parts = [
        coordinates(gradient, parameter)
        for gradient, parameter in zip(gradients, writer.shared, strict=True)
    ]
    return {
        str(i): writer.sum(parameter, part / scale)
        for i, (parameter, part) in enumerate(zip(writer.shared, parts, strict=True))
    }, reach
