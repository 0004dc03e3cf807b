"""Replay an update of plain PyTorch code, which makes no host calls, from one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from mtrl_fairgrad.gradients.cuda_recorder import CudaRecorder

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a function that launches work; returns one that launches the same work again."""
WARM_UP = 5
"""Ordinary calls before the capture, in which PyTorch initialises libraries and optimisers, and
compiles anew when the optimisers have their state.
"""


def capture_whole(function: Callable[[], None]) -> Callable[[], None]:
    """Capture `function` in one CUDA graph, after ordinary calls on another stream.

    An error leaves the process usable for what is measured next.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    recorder = CudaRecorder(torch.device("cuda", torch.cuda.current_device()))
    with recorder.session():
        recorder.begin()
        function()
        return recorder.end()


def replayed(
    update: Callable[[Any], None], draw: Callable[[], Any], capture: Capture = capture_whole
) -> Callable[[], None]:
    """Return a function that draws and replays one update.

    Args:
        update: takes one draw, a nesting of tensors and None, and launches an update.
        draw: draws, outside the graph.
        capture: captures the update.
    """
    inputs: Any = tree_map_only(Tensor, Tensor.clone, draw())
    replay = capture(lambda: update(inputs))
    into = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]

    def once() -> None:
        drawn = (leaf for leaf in tree_leaves(draw()) if isinstance(leaf, Tensor))
        for target, source in zip(into, drawn, strict=True):
            target.copy_(source)
        replay()

    return once
