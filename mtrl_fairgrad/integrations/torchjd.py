"""Our Gramian weightings inside TorchJD, as its `Weighting`; needs `pip install torchjd`.

from torchjd.aggregation import GramianWeightedAggregator
from mtrl_fairgrad import FairGrad
from mtrl_fairgrad.integrations.torchjd import TorchJDWeighting

aggregator = GramianWeightedAggregator(TorchJDWeighting(FairGrad(alpha=2)))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchjd.aggregation import Weighting

from mtrl_fairgrad.weighting import GramianWeighting
from mtrl_fairgrad.weighting.half_batches import check_whole_batch


class TorchJDWeighting(Weighting[Any]):
    """A `torchjd.aggregation.Weighting` of Gramians that returns the weights of one of our methods.

    Args:
        method: a Gramian weighting that needs no losses, initialised if it has state or draws
            numbers; the two share their state.
        generator: where a random method (PCGrad, GradVac) draws from, on the Gramians' device.

    Raises:
        TypeError: a method of another kind.
        ValueError: a method that needs the losses, which TorchJD does not pass on, or gradients of
            half-batches.
    """

    def __init__(self, method: GramianWeighting, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not isinstance(method, GramianWeighting):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"{type(method).__name__} does not weigh Gramians: give a method such as "
                "FairGrad(alpha=2)."
            )
        if method.needs_positive_losses:
            raise ValueError(
                f"{method.name} needs the losses, which TorchJD does not pass to a weighting: use "
                "backward."
            )
        check_whole_batch(method)
        if (
            generator is None
            and method.tasks is not None
            and method.draw([torch.Generator()]) is not None
        ):
            raise ValueError(f"{method.name} draws numbers: pass generator=torch.Generator().")
        self.method, self.generator = method, generator

    def forward(self, gramian: Tensor, /) -> Tensor:
        """Return the weights `[K]` of a Gramian `[K, K]`."""
        noise = None if self.generator is None else self.method.draw([self.generator])
        return self.method(gramian, **self.method.accepted(noise=noise)).weights
