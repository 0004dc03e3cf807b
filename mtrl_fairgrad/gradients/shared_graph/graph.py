"""Traversals of the autograd graph, without arithmetic."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.weak import WeakTensorKeyDictionary

Edge = tuple[Node | None, int]

SHOWN = 4
"""Shapes of forgotten parameters that a warning lists."""

_checked: Any = WeakTensorKeyDictionary()
"""First shared parameter -> the sets of parameters that `check_leaves` has seen."""


def edge_of(tensor: Tensor) -> Edge:
    """Return the edge of the graph that leads to the tensor's node."""
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def reached_edges(starts: Iterable[Edge], stop: set[Edge] | None = None) -> set[Edge]:
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


def check_leaves(
    losses: Sequence[Tensor], shared: Sequence[Tensor], own: Sequence[Tensor], alone: bool
) -> None:
    """Compare the parameters that the losses reach with those given, once for each set of these.

    Warns of parameters that are in neither group: they would get no gradient.

    Args:
        losses: K scalars.
        shared: all shared parameters.
        own: all own parameters.
        alone: whether no other process has losses.

    Raises:
        ValueError: no loss reaches a shared parameter.
    """
    given = {id(parameter) for parameter in (*shared, *own)}
    seen: set[frozenset[int]] = _checked.setdefault(shared[0], set())
    if frozenset(given) in seen:
        return
    leaves = _leaves(losses)
    if alone and leaves.keys().isdisjoint(map(id, shared)):
        raise ValueError(UNREACHED_SHARED)
    seen.add(frozenset(given))
    forgotten = [
        leaf
        for identity, leaf in leaves.items()
        if isinstance(leaf, nn.Parameter) and identity not in given
    ]
    if forgotten:
        different = sorted({tuple(parameter.shape) for parameter in forgotten})
        shapes = ", ".join(map(str, different[:SHOWN]))
        more = ", …" if len(different) > SHOWN else ""
        warnings.warn(
            f"the losses depend on parameters that are neither in shared nor in own and get no "
            f"gradient ({len(forgotten)}, of shapes {shapes}{more}): give heads as own, others as "
            "shared, or freeze them by requires_grad_(False).",
            stacklevel=3,
        )


UNREACHED_SHARED = (
    "no loss depends on a shared parameter: compute the losses from the output of the shared "
    "modules, without detach or no_grad, or give the parameters that the losses use."
)


def _leaves(losses: Sequence[Tensor]) -> dict[int, Tensor]:
    """Return all leaves on which the losses depend, by their identity."""
    edges = reached_edges(edge_of(loss) for loss in losses if loss.requires_grad)
    found = (getattr(node, "variable", None) for node, _ in edges)
    return {id(leaf): leaf for leaf in found if isinstance(leaf, Tensor)}
