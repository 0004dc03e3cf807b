"""The state of an agent's parts as flat named tensors, `part/name`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mtrl_fairgrad.agents.networks import Tensors

_MOMENTS = tuple(f"{part}/adam." for part in ("actor", "critics", "temperature"))
"""Optimisers have no moments before their first step; all other state always exists."""


def flatten(parts: Mapping[str, Mapping[str, Tensor]]) -> Tensors:
    """Return the tensors of all parts in one mapping, named `part/name`."""
    return {
        f"{part}/{name}": value for part, state in parts.items() for name, value in state.items()
    }


def part_of(state: Mapping[str, Tensor], part: str) -> Tensors:
    """Undo `flatten` for one part."""
    prefix = f"{part}/"
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def check_parts(stored: Mapping[str, Tensor], expected: Iterable[str]) -> None:
    """Check that a stored state has the names of an agent's own state, moments aside.

    Raises:
        ValueError: it belongs to another configuration.
    """
    trained = bool(stored.get("updates", torch.zeros(())) > 0)
    has_moments = any(name.startswith(_MOMENTS) for name in stored)
    if _without_moments(stored) != _without_moments(expected) or trained != has_moments:
        raise ValueError(
            "the checkpoint does not hold the parts of this agent: "
            "use the configuration the run was started with."
        )


def _without_moments(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith(_MOMENTS)}
