"""Replay updates and other functions of fixed shapes from CUDA graphs.

On a GPU, the arithmetic of an update at the paper's size takes about as long as Python needs for a
few dozen calls. A CUDA graph stores the update's whole sequence of kernels, from gathering the
batch to Polyak averaging, and launches it with one call.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from mtrl_fairgrad.gradients.cuda_recorder import Recorder
from mtrl_fairgrad.gradients.graph_capture import CALLS_BEFORE_CAPTURE
from mtrl_fairgrad.gradients.split_capture import Captured, CaptureError, capture
from mtrl_fairgrad.utils.faults import FallbackWarning

_torch: Any = torch  # some functions are incompletely annotated
WARM_UP = CALLS_BEFORE_CAPTURE + 2
"""Ordinary calls before the capture, in which libraries choose their algorithms and
`CapturedFunction` makes its captures.
"""


class Graphed:
    """A function that is replayed from CUDA graphs after a warm-up.

    If it cannot be captured, a `FallbackWarning` names the operation, and it stays an ordinary
    function: a capture that fails changes nothing.

    Args:
        function: takes any nesting of tensors and None of fixed shapes. What else it reads or
            writes must stay at fixed addresses. It must draw no random numbers and wait for the
            device in functions decorated by `on_host` only.
        subject: what it computes, for the warning, as in "updates".
        recorder: captures it.
    """

    def __init__(self, function: Callable[[Any], Any], subject: str, recorder: Recorder) -> None:
        self._function, self._subject, self._recorder = function, subject, recorder
        self._calls = 0
        self._inputs: Any = None
        self._captured: Captured | None = None
        self.failed = False
        """Whether the function could not be captured."""

    @property
    def captured(self) -> bool:
        """Whether calls are replayed."""
        return self._captured is not None

    def __call__(self, inputs: Any) -> Any:
        """Return the function's result; the next call may overwrite its tensors."""
        if self._captured is None and not self.failed:
            self._calls += 1
            if self._calls > WARM_UP:
                self._capture(inputs)
        if self._captured is None:
            return self._function(inputs)
        copy_tensors(self._inputs, inputs)
        self._captured.replay()
        return self._captured.result

    def _capture(self, inputs: Any) -> None:
        """Capture the function for inputs like these, which are copied."""
        self._inputs = tree_map_only(Tensor, Tensor.clone, inputs)
        try:
            self._captured = capture(lambda: self._function(self._inputs), self._recorder)
        except CaptureError as error:
            self.failed, self._inputs = True, None
            warnings.warn(
                f"{self._subject} are computed eagerly, because capturing a CUDA graph failed "
                f"{error}; cuda_graph=false avoids the attempt",
                FallbackWarning,
                stacklevel=3,
            )


class GraphedUpdates:
    """Runs several updates in one call, after a warm-up by replaying CUDA graphs.

    Sequences that differ in which parts of their draws are None, such as those of an actor that is
    not updated each time, have graphs of their own. A call with another number of draws than were
    captured first runs the updates one by one, and so do all calls after a capture that failed.

    Args:
        update: takes one draw, any nesting of tensors and None. It must change its state in place;
            see `Graphed` for the rest.
        recorder: captures a sequence of updates after `WARM_UP` calls.
    """

    def __init__(self, update: Callable[[Any], Any], recorder: Recorder) -> None:
        self._update, self._recorder = update, recorder
        self._graphs: dict[tuple[bool, ...], Graphed] = {}
        self._size: int | None = None
        self._failed = False

    @property
    def captured(self) -> list[Graphed]:
        """The sequences of updates that are replayed."""
        return [graphed for graphed in self._graphs.values() if graphed.captured]

    def __call__(self, draws: list[Any]) -> Any:
        """Update with each draw in order and return the last result that is not None.

        The next call may overwrite the tensors of the result, but not a call that returns None.
        """
        if self._failed or self._size not in (None, len(draws)):
            return self._run(draws)
        present = tuple(leaf is not None for leaf in tree_leaves(draws))
        if present not in self._graphs:
            self._graphs[present] = Graphed(self._run, "updates", self._recorder)
        graphed = self._graphs[present]
        result = graphed(draws)
        self._failed = graphed.failed
        self._size = len(draws) if graphed.captured else self._size
        return result

    def _run(self, draws: list[Any]) -> Any:
        latest = None
        for draw in draws:
            result = self._update(draw)
            latest = latest if result is None else result
        return latest


def copy_tensors(targets: Any, sources: Any) -> None:
    """Copy the tensors of a nesting into those of another, in one call for each type."""
    groups: defaultdict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = defaultdict(
        lambda: ([], [])
    )
    for target, source in zip(tree_leaves(targets), tree_leaves(sources), strict=True):
        if isinstance(target, Tensor):
            of_type = groups[target.dtype]
            of_type[0].append(target)
            of_type[1].append(source)
    for each in groups.values():
        _torch._foreach_copy_(*each)
