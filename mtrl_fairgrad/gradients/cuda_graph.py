"""Updates as launches: called one operation after the other, or replayed from a CUDA graph.

A GPU does the arithmetic of an update at the paper's size in about the time that Python needs for a
few dozen calls. A CUDA graph keeps the update's whole sequence of kernels, from gathering the batch
to Polyak averaging, and starts it with one call. What an update asks of its parts for that, a test
holds on any machine: everything it changes is changed in place, and nothing in it looks at a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from mtrl_fairgrad.gradients.graph_capture import CALLS_BEFORE

WARM_UP = CALLS_BEFORE + 2
"""Launches before the capture, as usual updates: libraries choose their algorithms, and recordings
are made.
"""

Capture = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]
"""Takes down what a function does; returns where its answer will be, and what does it again."""


def cuda_graph(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Capture `work` without doing it; its answer is in place once the replay has run."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = work()
    return answer, graph.replay


class Launches:
    """Does `update` with all of a launch's draws, in order; answers what the last one answers.

    Args:
        update: takes one draw, any nesting of tensors and None. To be captured it must keep what it
            changes where it is, draw no numbers and never wait for the device.
        capture: how, after `WARM_UP` launches of the usual way; `None` keeps that way for ever.
    """

    def __init__(self, update: Callable[[Any], Any], capture: Capture | None = None) -> None:
        self._update, self._capture = update, capture
        self._size, self._done = 0, 0
        self._draws: list[Any] = []
        self._answer: Any = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, draws: list[Any]) -> Any:
        """Launch; the answer's tensors may be overwritten by the next launch."""
        if self._replay is None and self._capture is not None:
            self._size, self._done = len(draws), self._done + 1
            if self._done > WARM_UP:
                self._draws = tree_map_only(Tensor, Tensor.clone, draws)
                self._answer, self._replay = self._capture(lambda: self._do(self._draws))
        if self._replay is None or len(draws) != self._size:
            return self._do(draws)
        for kept, drawn in zip(tree_leaves(self._draws), tree_leaves(draws), strict=True):
            if isinstance(kept, Tensor):
                kept.copy_(drawn)
        self._replay()
        return self._answer

    def _do(self, draws: list[Any]) -> Any:
        for draw in draws[:-1]:
            self._update(draw)
        return self._update(draws[-1])
