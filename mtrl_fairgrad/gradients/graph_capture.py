"""Pure functions of tensors, written down once as a flat list of operations that is then repeated.

`torch.func` lifts a loss over tasks and seeds anew in every call, layer upon layer of interpreters;
on CPU that is a tenth of an update at the paper's size. What it ends in is, for given shapes,
always the same list of plain tensor operations. `Recorded` keeps that list (as a `torch.fx` graph),
spares it memory traffic where it can, and repeats it: the same numbers to the last bit.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

aten: Any = torch.ops.aten
IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.relu.default: aten.relu_.default,
}
"""Commutative elementwise operations and their forms that write over the first operand."""
ALLOCATING = {
    aten.mm.default,
    aten.bmm.default,
    aten.threshold_backward.default,
    *IN_PLACE,
    *IN_PLACE.values(),
}
"""Operations whose result is in memory of its own, or in what a spare operand left."""
VIEWS = {aten.view.default, aten._unsafe_view.default}
INTO = {aten.mm.default: aten.mm.out, aten.bmm.default: aten.bmm.out}
"""Matrix products and their forms that write into given memory."""
LARGE = 2**20
"""Bytes from which memory is kept: the C library returns what is free at the top of its heap to the
system, from some hundred kilobytes on, so that blocks of a few megabytes, too, may have to be paged
in anew by each call.
"""

CALLS_BEFORE = 8
"""Calls that are not worth a recording, which takes as long as about a hundred of them save."""


class Recorded:
    """A function of tensors, recorded for each set of shapes, types and devices it is called with
    often.

    Args:
        function: of any nesting of dicts and tuples of tensors, giving the same. It must be pure:
            its answer depends on nothing but its arguments' values, by the same operations for
            equal shapes, and it changes no argument.
        after: how many calls come before the recording.
        compile: hand what was recorded to `torch.compile`, which fuses more and rounds differently;
            then from the first call on, since a resumed run has to compute what the one before it
            did.

    Where autograd records, or `torch.compile` does, the function itself is called.
    """

    def __init__(
        self, function: Callable[..., Any], after: int = CALLS_BEFORE, compile: bool = False
    ) -> None:
        self.function, self.after, self.compile = function, 0 if compile else after, compile
        self._calls: Counter[Any] = Counter()
        self._recordings: dict[Any, tuple[Callable[..., list[Tensor]], Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """What the function answers."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.function(*arguments)
        leaves, structure = tree_flatten(arguments)
        kind = (
            structure,
            *((each.shape, each.stride(), each.dtype, each.device) for each in leaves),
        )
        if kind not in self._recordings:
            self._calls[kind] += 1
            if self._calls[kind] <= self.after:
                return self.function(*arguments)
            self._recordings[kind] = self._record(leaves, structure)
        graph, answers = self._recordings[kind]
        return tree_unflatten(graph(*leaves), answers)

    def _record(
        self, leaves: list[Tensor], structure: Any
    ) -> tuple[Callable[..., list[Tensor]], Any]:
        answers: Any = None

        def flat(*leaves: Tensor) -> list[Tensor]:
            nonlocal answers
            found, answers = tree_flatten(self.function(*tree_unflatten(leaves, structure)))
            return found

        module = make_fx(flat)(*leaves)
        if self.compile:
            return torch.compile(module, dynamic=False), answers
        overwrite(module.graph)
        keep(module)
        module.recompile()
        return module.forward, answers


def overwrite(graph: fx.Graph) -> None:
    """Let elementwise operations write over an operand that nobody reads again: less memory
    traffic, the same bits.
    """
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target is aten.threshold_backward.default and _is_spare(node.args[0], node):
            node.target, node.kwargs = (
                aten.threshold_backward.grad_input,
                {"grad_input": node.args[0]},
            )
        elif (
            node.target in IN_PLACE and not node.kwargs
        ):  # a factor of one operand, `alpha`, would change sides
            spare = next((each for each in node.args if _is_spare(each, node)), None)
            if spare is not None:
                node.target, node.args = IN_PLACE[node.target], _with_first(spare, node.args)
    graph.lint()


def keep(module: fx.GraphModule) -> None:
    """Let large matrix products on the CPU write into memory that lasts from call to call."""
    for node in module.graph.nodes:
        result = node.meta["val"] if node.target in INTO else None
        if result is not None and _is_kept(result):
            name = f"kept_{node.name}"
            module.add_submodule(name, Kept(node.target, result.shape, result.dtype))
            node.op, node.target = "call_module", name
    module.graph.lint()


def _is_kept(result: Tensor) -> bool:
    cpu = result.device.type == "cpu" and result.dtype in (torch.float32, torch.float64)
    return cpu and result.is_contiguous() and result.nbytes >= LARGE


class Kept(nn.Module):
    """A matrix product that writes over its last result, unless somebody still holds that.

    Otherwise a large block returns to the system when it is freed and is paged in anew by each
    call: at 50 tasks a fifth of an update's time, at 10 tasks of 256 units and 32 samples a sixth.
    """

    def __init__(self, product: Any, shape: torch.Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.into, self.shape, self.dtype = INTO[product], shape, dtype
        self._allocate()

    def _allocate(self) -> None:
        # A tensor made from an array holds the array for as long as it or any view of it lives.
        self.memory = torch.empty(self.shape, dtype=self.dtype).numpy()
        self._alone = sys.getrefcount(self.memory)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """The product."""
        if sys.getrefcount(self.memory) > self._alone:
            self._allocate()
        return self.into(left, right, out=torch.from_numpy(self.memory))


def _with_first(first: fx.Node, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands of a commutative operation with this one in front."""
    others = list(operands)
    others.remove(first)
    return first, *others


def _is_spare(operand: Any, reader: fx.Node) -> bool:
    """Whether `reader` alone sees the memory of `operand`, and its result would just fit in there."""
    if not isinstance(operand, fx.Node) or not _same(
        operand.meta["tensor_meta"], reader.meta["tensor_meta"]
    ):
        return False
    while operand.target in VIEWS and len(operand.users) == 1:
        operand = operand.args[0]
    return operand.target in ALLOCATING and len(operand.users) == 1


def _same(one: Any, other: Any) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.stride == other.stride
