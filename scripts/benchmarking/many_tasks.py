"""A supervised training step with many tasks: CelebA's network and its 40 heads, random images.

* `plain_sum`: one `autograd` pass of the summed losses through plain PyTorch. The reference.
* `ls`: `backward` with the plain sum.
* `fairgrad`: FairGrad, one pass through the network a task.
* `fairgrad, 8 tasks a pass`, `fairgrad, 40 tasks a pass`: the same result by fewer passes.
* `fairgrad, representation`: gradients combined at the encoder's output, through which one pass
  goes.

Every step computes losses, gradients and Adam's update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from mtrl_fairgrad.gradients.shared_graph import backward
from mtrl_fairgrad.supervised.benchmarks.celeba import SIZE, CelebA, Network
from mtrl_fairgrad.weighting import make_method

from .settings import Row, Settings
from .timing import interleaved, milliseconds, ratio, thread_counts

SECTION = "many_tasks"
WIDTH, BATCH, QUICK_WIDTH, QUICK_BATCH = 8, 16, 1, 2
"""Channels of the first convolution, and images of a batch."""
REFERENCE = "plain_sum"
PASSES: dict[str, tuple[str, int, bool]] = {
    "ls": ("ls", 1, False),
    "fairgrad": ("fairgrad", 1, False),
    "fairgrad, 8 tasks a pass": ("fairgrad", 8, False),
    "fairgrad, 40 tasks a pass": ("fairgrad", 40, False),
    "fairgrad, representation": ("fairgrad", 1, True),
}
"""Name → method, tasks of a backward pass, and whether to combine at the representation."""


def measure(settings: Settings) -> Iterator[Row]:
    """Yield the time of a step of each way, and its ratio to the plain sum."""
    width, batch = (QUICK_WIDTH, QUICK_BATCH) if settings.quick else (WIDTH, BATCH)
    problem = Problem(width, batch, settings.device)
    work: dict[str, Callable[[], None]] = {REFERENCE: problem.plain_step()}
    work |= {name: problem.step(*way) for name, way in PASSES.items()}
    for suffix, clock in thread_counts(settings):
        times = interleaved(work, settings.few, settings.device, clock=clock)
        for name, seconds in times.items():
            yield Row(SECTION, name + suffix, milliseconds(seconds), "ms")
        for name in PASSES:
            slower = ratio(times[name], times[REFERENCE])
            yield Row(SECTION, f"{name} / {REFERENCE}{suffix}", slower, "×")


class Problem:
    """A batch of random images `[B, 3, 64, 64]` and labels `[B, 40]`.

    Args:
        width: width of the networks.
        batch: number of images.
        device: where to compute.
    """

    def __init__(self, width: int, batch: int, device: torch.device) -> None:
        random = torch.Generator().manual_seed(0)
        self.benchmark, self.device = CelebA(width=width), device
        images = torch.rand(batch, 3, SIZE, SIZE, generator=random)
        labels = torch.rand(batch, len(self.benchmark.tasks), generator=random).round()
        self.batch = (images.to(device), labels.to(device))

    def plain_step(self) -> Callable[[], None]:
        """Return a step along the gradient of the summed losses, without this project's code."""
        model, optimizer = self._model()

        def step() -> None:
            losses = self.benchmark.losses(model(self.batch[0]), self.batch)
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()

        return step

    def step(self, method: str, tasks_per_pass: int, representation: bool) -> Callable[[], None]:
        """Return a step of a method, see `PASSES`."""
        model, optimizer = self._model()
        combined = make_method(method)
        shared, own = list(model.shared_parameters()), list(model.own_parameters())
        features: list[torch.Tensor] = []

        def keep_features(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
            features.append(output)

        model.shared.register_forward_hook(keep_features)

        def step() -> None:
            features.clear()
            losses = self.benchmark.losses(model(self.batch[0]), self.batch)
            optimizer.zero_grad()
            backward(
                losses,
                combined,
                shared=shared,
                own=own,
                representation=features if representation else None,
                tasks_per_pass=tasks_per_pass,
            )
            optimizer.step()

        return step

    def _model(self) -> tuple[Network, torch.optim.Adam]:
        torch.manual_seed(0)
        model = self.benchmark.model().to(self.device)
        return model, torch.optim.Adam(model.parameters(), self.benchmark.schedule.learning_rate)
