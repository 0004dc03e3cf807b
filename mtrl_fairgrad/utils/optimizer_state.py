"""The state of an Adam optimizer as named tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nothing here needs PyTorch itself
    from torch import Tensor
    from torch.optim import Optimizer

ENTRIES = ("step", "exp_avg", "exp_avg_sq")


def adam_tensors(optimizer: Optimizer, names: Iterable[str], key: str) -> dict[str, Tensor]:
    """Return the state of each parameter; empty before the first step.

    Args:
        optimizer: Adam.
        names: names of its parameters, in order.
        key: format of the tensors' names, such as `adam.{entry}.{name}`.
    """
    state = optimizer.state_dict()["state"]
    return {
        key.format(entry=entry, name=name): value
        for index, name in enumerate(names)
        for entry, value in state.get(index, {}).items()
    }


def load_adam_tensors(
    optimizer: Optimizer, names: Iterable[str], key: str, tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `adam_tensors` returned; other tensors are ignored."""
    state: dict[int, dict[str, Tensor]] = {}
    for index, name in enumerate(names):
        keys = {entry: key.format(entry=entry, name=name) for entry in ENTRIES}
        entries = {entry: tensors[k].clone() for entry, k in keys.items() if k in tensors}
        if entries:
            state[index] = entries
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
