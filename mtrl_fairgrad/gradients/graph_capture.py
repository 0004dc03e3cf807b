"""Capture pure tensor functions as flat lists of operations and replay them.

`torch.func` transforms a loss over tasks and seeds anew in every call, through several layers of
interpreters; on CPU that is a tenth of an update at the paper's size. For given shapes the result
is always the same list of plain tensor operations. `CapturedFunction` stores that list as a
`torch.fx` graph, removes memory traffic where it can, and replays it; the results are equal bit for
bit.
"""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from mtrl_fairgrad.utils.faults import FallbackWarning, first_line
from mtrl_fairgrad.utils.validation import one_line

aten: Any = torch.ops.aten
_torch: Any = torch  # some functions are incompletely annotated
IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.relu.default: aten.relu_.default,
}
"""Commutative elementwise operations and their forms that overwrite the first operand."""
ALLOCATING = {
    aten.mm.default,
    aten.bmm.default,
    aten.threshold_backward.default,
    *IN_PLACE,
    *IN_PLACE.values(),
}
"""Operations whose result has its own memory or that of an operand that is not needed again."""
VIEWS = {aten.view.default, aten._unsafe_view.default}
OUT_VARIANTS = {aten.mm.default: aten.mm.out, aten.bmm.default: aten.bmm.out}
"""Matrix products and their forms that write into given memory."""
MIN_REUSED_BYTES = 2**20
"""Size from which the memory of a matrix product is reused. The C library returns free memory at
the top of its heap to the system, so that blocks of a few megabytes may have to be paged in anew by
every call.
"""
Compile = bool | Literal["auto"]
"""Whether to use `torch.compile`; "auto": if it works."""
CALLS_BEFORE_CAPTURE = 8
"""Ordinary calls before the capture, which takes as long as about a hundred calls save."""


class CapturedFunction:
    """A tensor function that is captured and replayed.

    It is captured for each combination of shapes, types and devices it is often called with. While
    `torch.compile` traces, the function itself is called, and so it is while autograd records,
    unless it is differentiable.

    Args:
        function: takes and returns any nesting of dicts and tuples of tensors. It must be pure: the
            result depends on the arguments' values only, equal shapes lead to the same operations,
            and no argument is changed.
        after: number of ordinary calls before the capture.
        compile: pass the captured graph to `torch.compile`, which fuses more and rounds
            differently. The capture then happens in the first call, because a resumed run must
            compute what the run before it did. Inductor makes no CUDA graphs of its own, since the
            caller may capture one. With "auto", an error of the compiler is a `FallbackWarning`,
            the first one in a process, and the function stays uncompiled.
        differentiable: capture the function as autograd sees it, so that results of a replay can be
            differentiated. No memory is then reused, and nothing is compiled.
    """

    uncompiled: ClassVar[bool] = False
    """Whether the compiler failed in this process, so that "auto" no longer tries it."""

    def __init__(
        self,
        function: Callable[..., Any],
        after: int = CALLS_BEFORE_CAPTURE,
        compile: Compile = False,
        differentiable: bool = False,
    ) -> None:
        self.function, self.after, self.compile = function, 0 if compile else after, compile
        self.differentiable = differentiable
        self._calls: Counter[Any] = Counter()
        self._captures: dict[Any, tuple[Callable[..., list[Tensor]], Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Return the function's result."""
        recorded = torch.is_grad_enabled()
        if torch.compiler.is_compiling() or (recorded and not self.differentiable):
            return self.function(*arguments)
        leaves, structure = tree_flatten(arguments)
        signature = (
            structure,
            recorded,
            *(
                (leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad)
                for leaf in leaves
            ),
        )
        if signature not in self._captures:
            self._calls[signature] += 1
            if self._calls[signature] <= self.after:
                return self.function(*arguments)
            self._captures[signature] = self._capture(leaves, structure)
        replay, result_structure = self._captures[signature]
        return tree_unflatten(replay(*leaves), result_structure)

    def _capture(
        self, leaves: list[Tensor], structure: Any
    ) -> tuple[Callable[..., list[Tensor]], Any]:
        """Return a function from leaves to result leaves, and the structure of the result."""
        result_structure: Any = None

        def flat(*leaves: Tensor) -> list[Tensor]:
            nonlocal result_structure
            result = self.function(*tree_unflatten(leaves, structure))
            result_leaves, result_structure = tree_flatten(result)
            return result_leaves

        # On a GPU a backward pass runs in another thread, which need not know what is traced here.
        with torch.autograd.set_multithreading_enabled(False):
            module = make_fx(flat)(*leaves)
        if self.differentiable:
            module.graph.eliminate_dead_code()  # what autograd saves now
            module.recompile()
            return module.forward, result_structure
        compiled = self._compiled(module, leaves)
        if compiled is not None:
            return compiled, result_structure
        overwrite_operands(module.graph)
        reuse_matmul_memory(module)
        module.recompile()
        return module.forward, result_structure

    def _compiled(
        self, module: fx.GraphModule, leaves: list[Tensor]
    ) -> Callable[..., list[Tensor]] | None:
        """Return the compiled graph; None if it is not wanted, or `auto` and impossible."""
        optional = self.compile == "auto"
        if not self.compile or (optional and CapturedFunction.uncompiled):
            return None
        compiled: Any = _torch.compile(module, dynamic=False, options={"triton.cudagraphs": False})
        if optional:
            try:
                compiled(*leaves)  # only a call compiles
            except Exception as error:  # anything that a compiler may raise
                CapturedFunction.uncompiled = True
                warnings.warn(
                    "task gradients are not compiled, because torch.compile fails here with "
                    f"{one_line(first_line(error))}; compile=false avoids the attempt",
                    FallbackWarning,
                    stacklevel=4,
                )
                return None
        return compiled


def overwrite_operands(graph: fx.Graph) -> None:
    """Let elementwise operations overwrite an operand that nothing reads afterwards.

    This saves memory traffic and changes no bit of the results.
    """
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target is aten.threshold_backward.default and _is_reusable(node.args[0], node):
            node.target = aten.threshold_backward.grad_input
            node.kwargs = {"grad_input": node.args[0]}
        # Exclude the keyword `alpha`: it multiplies one operand and would move to the other.
        elif node.target in IN_PLACE and not node.kwargs:
            operand = next((each for each in node.args if _is_reusable(each, node)), None)
            if operand is not None:
                node.target, node.args = IN_PLACE[node.target], _move_first(operand, node.args)
    graph.lint()


def reuse_matmul_memory(module: fx.GraphModule) -> None:
    """Let large matrix products on the CPU write into memory that persists between calls."""
    for node in module.graph.nodes:
        result = node.meta["val"] if node.target in OUT_VARIANTS else None
        if result is not None and _is_large_on_cpu(result):
            name = f"reused_{node.name}"
            module.add_submodule(name, ReusedMatmul(node.target, result.shape, result.dtype))
            node.op, node.target = "call_module", name
    module.graph.lint()


def _is_large_on_cpu(result: Tensor) -> bool:
    cpu = result.device.type == "cpu" and result.dtype in (torch.float32, torch.float64)
    return cpu and result.is_contiguous() and result.nbytes >= MIN_REUSED_BYTES


class ReusedMatmul(nn.Module):
    """A matrix product that overwrites its last result unless something still refers to it.

    Otherwise a large block returns to the system when it is freed and is paged in anew by every
    call: a fifth of an update's time with 50 tasks, a sixth with 10 tasks, 256 units and 32
    samples.
    """

    def __init__(self, product: Any, shape: torch.Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.into, self.shape, self.dtype = OUT_VARIANTS[product], shape, dtype
        self._lock = Lock()
        self._memory = self._allocate()
        self._last: weakref.ref[NDArray[Any]] | None = None

    def _allocate(self) -> NDArray[Any]:
        return torch.empty(self.shape, dtype=self.dtype).numpy()

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the product."""
        return self.into(left, right, out=self._next_output())

    def _next_output(self) -> Tensor:
        """Return a tensor in the persistent memory, or in new memory if the last one is in use.

        A tensor made from an array, and every view of that tensor, holds a reference to the array.
        So each call wraps a new array of the same memory: it is alive as long as the memory is in
        use.
        """
        with self._lock:  # two threads must not receive the same memory
            if self._last is not None and self._last() is not None:
                self._memory = self._allocate()
            array: NDArray[Any] = self._memory.view()
            self._last = weakref.ref(array)
            return _torch.from_numpy(array)


def _move_first(first: fx.Node, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the operands of a commutative operation with `first` in front."""
    others = list(operands)
    others.remove(first)
    return first, *others


def _is_reusable(operand: Any, reader: fx.Node) -> bool:
    """Return whether only `reader` uses the memory of `operand`, and its result fits there."""
    if not isinstance(operand, fx.Node) or not _same_layout(
        operand.meta["tensor_meta"], reader.meta["tensor_meta"]
    ):
        return False
    while operand.target in VIEWS and len(operand.users) == 1:
        operand = operand.args[0]
    return operand.target in ALLOCATING and len(operand.users) == 1


def _same_layout(left: Any, right: Any) -> bool:
    return left.shape == right.shape and left.dtype == right.dtype and left.stride == right.stride
