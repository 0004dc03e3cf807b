"""Stop requests: SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 end a run with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C and a job manager's termination; the second of them ends a run at once."""
WARNING_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""Sent by job managers some time before the end: SLURM's --signal, submitit's preemption signal."""

Handler = Callable[[int, FrameType | None], Any] | int | None


class StopRequested(Exception):
    """Training ends before its last step; the message contains step and checkpoint."""


class StopController:
    """Receives requests to stop; a run then saves a checkpoint at the end of its step."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The signal that requested the stop."""
        self.received: list[int] = []
        """All signals received by `handle_signals`, in order."""
        self.previous_handlers: dict[int, Handler] = {}
        """The handlers that `handle_signals` replaced, by signal."""

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + signal after a requested stop, else 0."""
        return 0 if self.signal is None else 128 + self.signal

    def request(self, number: int) -> None:
        """Ask the run to stop because of signal `number`; only the first request counts."""
        if not self.requested:
            self.signal = number

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Turn signals into requests; restore the previous handlers at the end.

        A second SIGINT or SIGTERM raises KeyboardInterrupt. One SIGTERM after a warning signal does
        not, because job managers send that sequence. In a thread this does nothing, since Python
        delivers signals to the main thread only.
        """
        if threading.current_thread() is threading.main_thread():
            self.previous_handlers.update(
                {
                    number: signal.signal(number, self._handle)
                    for number in (*STOP_SIGNALS, *WARNING_SIGNALS)
                }
            )
        try:
            yield
        finally:
            for number, handler in self.previous_handlers.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if sum(received in STOP_SIGNALS for received in self.received) > 1:
            raise KeyboardInterrupt
        self.request(number)

    def reraise(self) -> None:
        """Pass the received signals to the previous handlers, such as submitit's, which requeues.

        Call it after the run is closed: a handler may end the process.
        """
        for number in self.received:
            handler = self.previous_handlers[number]
            if callable(handler) and handler is not signal.default_int_handler:
                handler(number, None)
