"""Read and write the state of a PyTorch optimizer as named tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nothing here needs PyTorch itself
    from torch import Tensor
    from torch.optim import Optimizer

OptimizerState = Mapping[tuple[int, str], "Tensor"]
"""(index of the parameter, entry such as `exp_avg`) → tensor."""


def optimizer_state(optimizer: Optimizer) -> dict[tuple[int, str], Tensor]:
    """Return what the optimizer has accumulated; empty before its first step."""
    return {
        (index, entry): value
        for index, entries in optimizer.state_dict()["state"].items()
        for entry, value in entries.items()
    }


def load_optimizer_state(optimizer: Optimizer, state: OptimizerState) -> None:
    """Replace what the optimizer has accumulated; its parameter groups and rates stay."""
    entries: dict[int, dict[str, Tensor]] = {}
    for (index, entry), value in state.items():
        entries.setdefault(index, {})[entry] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
