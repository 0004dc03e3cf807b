"""Which parameters a backward pass reaches, and with gradients of which layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from mtrl_fairgrad.gradients.shared_graph.distributed import Processes

UNREACHED, DENSE = -1, 0


class Reach:
    """Whether any loss reaches each of several parameters, noted during the backward passes.

    `.grad` of a parameter without effect must stay as it is: a zero gradient would let an optimiser
    with weight decay or momentum move the parameter.
    """

    def __init__(self, parameters: int) -> None:
        self.layouts = [UNREACHED] * parameters
        """For each parameter `UNREACHED`, `DENSE`, or the number of sparse dimensions."""

    def note(self, position: int, gradient: Tensor) -> None:
        """Note one gradient; a sum with a dense part is dense."""
        layout = gradient.sparse_dim() if gradient.layout == torch.sparse_coo else DENSE
        known = self.layouts[position]
        self.layouts[position] = layout if known == UNREACHED else min(known, layout)

    def note_all(self, gradients: Iterable[Tensor | None]) -> None:
        """Note a gradient of every parameter, None for no effect."""
        for position, gradient in enumerate(gradients):
            if gradient is not None:
                self.note(position, gradient)

    def over(self, processes: Processes, device: torch.device) -> list[int]:
        """Return the layouts of the gradients' sums over all processes.

        Waits for the device only in a process with an unreached parameter.
        """
        if processes.size == 1:
            return self.layouts
        reached = [layout != UNREACHED for layout in self.layouts]
        sparse = [max(layout, 0) for layout in self.layouts]
        sums: Any = processes.sum(torch.tensor([reached, sparse], dtype=torch.int64, device=device))
        if all(reached):
            return self.layouts
        return [
            own if here else total // count if count else UNREACHED
            for own, here, (count, total) in zip(
                self.layouts, reached, sums.T.tolist(), strict=True
            )
        ]
