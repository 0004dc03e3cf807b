"""Warnings of directions that are not what the method promises, once for each method and cause.

A warning needs values, but reading a value waits for a GPU. There the values are copied to the host
in one piece while the GPU works, and read in a later call of `backward`, when they have arrived.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mtrl_fairgrad.weighting import Method

UNSOLVED, OVERFLOW, LOSS = "unsolved", "overflow", "loss"


class _Copy(NamedTuple):
    """Values on their way to the host."""

    values: Tensor
    """The K losses, and the weights and `converged` where the method has them."""
    tasks: int
    weighted: bool
    """Whether there are weights."""
    fell_back: bool
    arrived: torch.cuda.Event | None


@dataclass
class _Record:
    waiting: deque[_Copy] = field(default_factory=deque[_Copy])
    said: set[str] = field(default_factory=set[str])


_records: WeakKeyDictionary[Method, _Record] = WeakKeyDictionary()


def notice(method: Method, losses: Tensor, diagnostics: dict[str, Tensor], fell_back: bool) -> None:
    """Warn if the direction is unsolved or not finite, on a GPU in a later call.

    Args:
        method: what computed the direction.
        losses: `[K]`.
        diagnostics: the method's, with its `weights` and `converged` where it has them.
        fell_back: whether an unsolved direction was replaced.
    """
    on_gpu = losses.device.type == "cuda"
    if on_gpu and torch.cuda.is_current_stream_capturing():
        return
    if not on_gpu and _flawless(losses, diagnostics):
        return
    record = _records.setdefault(method, _Record())
    if len(record.said) < 3:
        record.waiting.append(_to_host(losses, diagnostics, fell_back))
    while record.waiting and (
        record.waiting[0].arrived is None or record.waiting[0].arrived.query()
    ):
        _say(method, record.said, record.waiting.popleft())


def _flawless(losses: Tensor, diagnostics: dict[str, Tensor]) -> bool:
    """Return whether all values are finite and solved, by few reads, which a CPU has at once."""
    solved = diagnostics.get("converged")
    if solved is not None and not solved:
        return False
    tensors: list[Any] = [losses, diagnostics.get("weights", losses)]
    return all(math.isfinite(value) for tensor in tensors for value in tensor.tolist())


def _to_host(losses: Tensor, diagnostics: dict[str, Tensor], fell_back: bool) -> _Copy:
    weights, solved = diagnostics.get("weights"), diagnostics.get("converged")
    parts = [losses, *(part.reshape(-1) for part in (weights, solved) if part is not None)]
    values, arrived = torch.cat(parts), None
    if values.is_cuda:
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(values.device))
        values = host
    return _Copy(values, len(losses), weights is not None, fell_back, arrived)


def _say(method: Method, said: set[str], copy: _Copy) -> None:
    values: Any = copy.values
    numbers: list[float] = values.tolist()
    losses, others = numbers[: copy.tasks], numbers[copy.tasks :]
    weighted = copy.tasks if copy.weighted else 0
    weights, solved = others[:weighted], others[weighted:]
    # A task without weight does no harm.
    bad = [
        not math.isfinite(loss) and not (copy.weighted and weights[task] == 0)
        for task, loss in enumerate(losses)
    ]
    broken = not all(map(math.isfinite, weights))
    unsolved = solved == [0] and not copy.fell_back and not broken
    overflow = broken and not any(bad)
    causes = {UNSOLVED: unsolved, OVERFLOW: overflow, LOSS: any(bad)}
    texts = {
        UNSOLVED: f"{method.name} did not solve its equation, but its direction is in .grad (see "
        "converged and residual in the result): give fall_back=True for equal weights in such "
        "steps, or another solver.",
        OVERFLOW: f"task gradients are not finite, and so is .grad after {method.name}: lower the "
        "learning rate, or use a scaler with half precision.",
        LOSS: f"the losses of tasks {[task for task, wrong in enumerate(bad) if wrong]} are NaN or "
        "infinite, so that .grad is not finite: check the losses before backward.",
    }
    for cause, found in causes.items():
        if found and cause not in said:
            said.add(cause)
            warnings.warn(texts[cause], RuntimeWarning, stacklevel=6)
