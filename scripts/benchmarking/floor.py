"""The arithmetic floor of an update: its matrix products alone, at the speed this machine does
them.

They are listed by hand, layer by layer, and done on arrays of their own. A test compares their
number of operations with what PyTorch counts in a whole update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .settings import Size


class Product(NamedTuple):
    """`kind` of a layer `[outputs, inputs]` over all samples; all three kinds have as many
    operations.
    """

    kind: str
    """`forward`: x Wᵀ; `inputs`: the gradient of the inputs, g W; `weights`: that of the weights,
    gᵀ x.
    """
    inputs: int
    outputs: int

    def flops(self, size: Size) -> int:
        """Multiplications and additions."""
        return 2 * size.tasks * size.batch * self.inputs * self.outputs


def layers(inputs: int, outputs: int, size: Size) -> list[tuple[int, int]]:
    """Inputs and outputs of each layer of a perceptron."""
    return list(pairwise([inputs, *[size.width] * size.depth, outputs]))


def products(size: Size) -> Iterator[Product]:
    """All matrix products of one update of linear scalarisation."""
    actor = layers(size.observation, 2 * size.action, size)
    critic = layers(size.observation + size.action, 1, size)

    def forward(network: list[tuple[int, int]]) -> Iterator[Product]:
        return (Product("forward", *layer) for layer in network)

    def learn(network: list[tuple[int, int]]) -> Iterator[Product]:
        """Forward and backward: the data themselves need no gradient."""
        yield from forward(network)
        yield from (Product("weights", *layer) for layer in network)
        yield from (Product("inputs", *layer) for layer in network[1:])

    # Targets: the policy at the next state, both target critics there.
    yield from forward(actor)
    for _ in range(2):
        yield from forward(critic)
    # Critics, then actor through both critics, back to the action.
    for _ in range(2):
        yield from learn(critic)
    yield from learn(actor)
    for _ in range(2):
        yield from forward(critic)
        yield from (Product("inputs", *layer) for layer in critic)


def flops(size: Size) -> int:
    """Of one update's matrix products."""
    return sum(product.flops(size) for product in products(size))


class Floor:
    """Does the matrix products of one update, and nothing else.

    Args:
        size: of the update.
        device: where.
        per_task: with the weights' gradients of each task apart, `[K, out, B] [K, B, in]`, as
            methods need that look at them; else over the flat batch, as linear scalarisation.
    """

    def __init__(self, size: Size, device: torch.device, per_task: bool) -> None:
        self._size, self._device = size, device
        self._arrays: dict[tuple[str | int, ...], Tensor] = {}
        self._work = [self._prepare(product, per_task) for product in products(size)]

    def run(self) -> None:
        """All of them once."""
        for work in self._work:
            work()

    def _prepare(self, product: Product, per_task: bool) -> Callable[[], Tensor]:
        size, inputs, outputs = self._size, product.inputs, product.outputs
        samples = size.tasks * size.batch
        x, g = self._array("x", samples, inputs), self._array("g", samples, outputs)
        weight = self._array("weight", outputs, inputs)
        if product.kind == "forward":
            found = self._array("found", samples, outputs)
            return lambda: torch.mm(x, weight.t(), out=found)
        if product.kind == "inputs":
            found = self._array("found", samples, inputs)
            return lambda: torch.mm(g, weight, out=found)
        if not per_task:
            found = self._array("found", outputs, inputs)
            return lambda: torch.mm(g.t(), x, out=found)
        found = self._array("found", size.tasks, outputs, inputs)
        gradients, data = (each.view(size.tasks, size.batch, -1) for each in (g, x))
        return lambda: torch.bmm(gradients.mT, data, out=found)

    def _array(self, role: str, *shape: int) -> Tensor:
        """Shared by all products that have such an operand: what an update has just made is in the
        caches, too.

        What is found is never an operand: numbers that shrink from run to run would become
        denormal, which is slow.
        """
        return self._arrays.setdefault((role, *shape), torch.randn(shape, device=self._device))


def square(device: torch.device, side: int) -> Callable[[], Tensor]:
    """A product of two large square matrices, for reference: 2·side³ operations."""
    a, b, found = (torch.randn(side, side, device=device) for _ in range(3))
    return lambda: torch.mm(a, b, out=found)
