"""Replay updates from a CUDA graph.

On a GPU, the arithmetic of an update at the paper's size takes about as long as Python needs for a
few dozen calls. A CUDA graph stores the update's whole sequence of kernels, from gathering the
batch to Polyak averaging, and launches it with one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from mtrl_fairgrad.gradients.graph_capture import CALLS_BEFORE_CAPTURE

WARM_UP = CALLS_BEFORE_CAPTURE + 2
"""Ordinary calls before the capture, in which libraries choose their algorithms and
`CapturedFunction` makes its captures.
"""

Capture = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
"""Captures a function; returns the place of its result and a function that replays it."""


def capture_cuda_graph(function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Capture `function` without running it; its result is valid after the first replay."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return result, graph.replay


class GraphedUpdates:
    """Runs several updates in one call, after a warm-up by replaying a graph.

    A call with another number of draws than the one that was captured runs the updates one by one.

    Args:
        update: takes one draw, any nesting of tensors and None. It must change its state in place,
            draw no random numbers and never wait for the device.
        capture: captures a sequence of updates after `WARM_UP` calls.
    """

    def __init__(self, update: Callable[[Any], Any], capture: Capture = capture_cuda_graph) -> None:
        self._update, self._capture = update, capture
        self._size, self._calls = 0, 0
        self._inputs: list[Any] = []
        self._result: Any = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, draws: list[Any]) -> Any:
        """Update with each draw in order and return the result of the last update.

        The next call may overwrite the tensors of the result.
        """
        if self._replay is None:
            self._size, self._calls = len(draws), self._calls + 1
            if self._calls > WARM_UP:
                self._inputs = tree_map_only(Tensor, Tensor.clone, draws)
                self._result, self._replay = self._capture(lambda: self._run(self._inputs))
        if self._replay is None or len(draws) != self._size:
            return self._run(draws)
        for target, source in zip(tree_leaves(self._inputs), tree_leaves(draws), strict=True):
            if isinstance(target, Tensor):
                target.copy_(source)
        self._replay()
        return self._result

    def _run(self, draws: list[Any]) -> Any:
        for draw in draws[:-1]:
            self._update(draw)
        return self._update(draws[-1])
