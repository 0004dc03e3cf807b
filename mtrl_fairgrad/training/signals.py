"""Signals that ask a run to stop: first a checkpoint, then what whoever started us does at that
signal.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

ASKING = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C and the end a job manager announces; asked for twice, a run ends at once."""
WARNING = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""What job managers send some time before the end: SLURM's --signal, submitit's preemption signal.
"""


class Stoppable(Protocol):
    """A run in progress."""

    def request_stop(self, signal: int) -> None:
        """Ask it to end when it can save itself."""


@dataclass
class Stop:
    """What was received while a run was in progress."""

    received: list[int] = field(default_factory=list)
    """The signals, in order."""
    before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = field(
        default_factory=dict
    )
    """Who handled them before us."""

    def hand_on(self) -> None:
        """Let those who wait for the signals in this process have them now, such as submitit to
        requeue the job.

        Call it when the run is closed: they may end the process.
        """
        for number in self.received:
            handler = self.before[number]
            if callable(handler) and handler is not signal.default_int_handler:
                handler(number, None)


@contextmanager
def stopping(run: Stoppable) -> Iterator[Stop]:
    """Let Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 end the run with a checkpoint.

    A second Ctrl-C or SIGTERM raises KeyboardInterrupt; one SIGTERM after a warning is the job
    manager's way and does not. In a thread nothing is changed, since Python gives signals to the
    main thread alone.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.received.append(number)
        if sum(1 for each in stop.received if each in ASKING) > 1:
            raise KeyboardInterrupt
        if len(stop.received) == 1:
            run.request_stop(number)

    if threading.current_thread() is threading.main_thread():
        stop.before.update(
            {number: signal.signal(number, handle) for number in (*ASKING, *WARNING)}
        )
    try:
        yield stop
    finally:
        for number, handler in stop.before.items():
            signal.signal(number, handler)
