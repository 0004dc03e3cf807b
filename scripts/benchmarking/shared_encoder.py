"""`backward` through a shared encoder: the part of its time that is FairGrad's own.

Ten tasks with a linear head each share a perceptron. The own share is the time of `backward` less
that of one plain backward pass for each task: Gramian, solution, direction, and writing `.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mtrl_fairgrad import FairGrad, backward

from .settings import Row, Settings
from .timing import interleaved, milliseconds

TASKS, BATCH, FEATURES, WIDTH = 10, 128, 64, 400


class Encoder:
    """A shared perceptron with linear heads, on random data."""

    def __init__(self, settings: Settings) -> None:
        width, device = (8 if settings.quick else WIDTH), settings.device
        layers = [nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.encoder = nn.Sequential(*layers).to(device)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(TASKS)).to(device)
        self.inputs = torch.randn(BATCH, FEATURES, device=device)
        self.targets = torch.randn(TASKS, BATCH, 1, device=device)
        self.method = FairGrad(alpha=2.0, solver="newton")

    def losses(self) -> list[Tensor]:
        """Return the losses of all tasks on one graph."""
        features = self.encoder(self.inputs)
        return [
            (head(features) - target).square().mean()
            for head, target in zip(self.heads, self.targets, strict=True)
        ]

    def passes(self) -> None:
        """Make one backward pass for each task."""
        shared = list(self.encoder.parameters())
        for loss, head in zip(self.losses(), self.heads, strict=True):
            torch.autograd.grad(loss, [*shared, *head.parameters()], retain_graph=True)

    def combined(self) -> None:
        """Call `backward` with FairGrad, one pass a task."""
        backward(self.losses(), self.method, shared=self.encoder, own=self.heads, tasks_per_pass=1)


def measure(section: str, settings: Settings) -> Iterator[Row]:
    """Yield the time of `backward`, of its passes alone, and of the difference."""
    problem = Encoder(settings)
    work: dict[str, Callable[[], None]] = {"passes": problem.passes, "backward": problem.combined}
    times = interleaved(work, 3 * settings.rounds, settings.device, warm_up=5)
    own = [a - b for a, b in zip(times["backward"], times["passes"], strict=True)]
    yield Row(section, f"backward of FairGrad, K={TASKS}", milliseconds(times["backward"]), "ms")
    yield Row(section, f"{TASKS} backward passes", milliseconds(times["passes"]), "ms")
    yield Row(section, OWN_SHARE, milliseconds(own), "ms")


OWN_SHARE = f"backward of FairGrad, K={TASKS}: own share"
