"""A worker process's life: build its share of the sub-environments, answer commands, and never
outlive the learner.
"""

import ctypes
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.workers.host import Host, Slot, SubEnvironmentError
from mtrl_fairgrad.envs.workers.shared_memory import Buffers

FOR_THE_LEARNER = frozenset(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
"""Signals that ask a run to stop."""

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal to get when the thread that started us ends."""


def worker_main(
    connection: Connection,
    learner: int,
    bound: bool,
    memory: Any,
    rows: int,
    share: list[Slot],
    suite: Suite,
    role: str,
) -> None:
    """Answer commands with (error or None, answer) until end of file.

    Args:
        connection: to the learner.
        learner: its process number.
        bound: whether the thread that started us lives as long as the learner does.
        memory: of `Buffers` for all `rows`.
        rows: N.
        share: what is simulated here.
        suite: of all.
        role: `train` or `eval`.
    """
    # Ctrl-C and a job manager's signals go to the whole group: the learner decides when to stop and
    # needs us until then.
    for number in FOR_THE_LEARNER:
        signal.signal(number, signal.SIG_IGN)
    _leave_with(learner, bound)
    try:
        try:
            buffers = Buffers.over(memory, rows, suite.observation_size, suite.action_size)
            host = Host(share, suite, role, buffers)
            connection.send_bytes(pickle.dumps((None, None)))
            while True:
                command, payload = pickle.loads(connection.recv_bytes())
                connection.send_bytes(pickle.dumps((None, host.run(command, payload))))
        except SubEnvironmentError as error:
            connection.send_bytes(pickle.dumps((describe(error), None)))
    except (EOFError, OSError):
        return


def _leave_with(learner: int, bound: bool) -> None:
    """End when the learner does, however it ends.

    End of file is not enough: a fork of the learner may hold our connection, and a simulator that
    hangs never reads it. Where the kernel can be asked to kill us, that works even for a process
    that is stopped or never lets another of its threads run.
    """
    if bound and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == learner:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def describe(error: SubEnvironmentError) -> str:
    """Where it happened and what, then the original traceback."""
    cause = error.__cause__
    assert cause is not None
    text = "".join(traceback.format_exception(cause)).rstrip()
    return f"the environment of {error} raised {type(cause).__name__}: {cause}\n\nThere:\n{text}"


@contextmanager
def lightweight_spawn() -> Iterator[None]:
    """Start a process that imports nothing of the program that starts it, and ignores Ctrl-C from
    birth.

    `spawn` imports the main module again in each child, for us the trainer and with it torch
    (seconds and 300 MB each); an empty stand-in leaves it nothing to import. A blocked signal stays
    blocked in the child, and waits here.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    previous = None
    if hasattr(signal, "pthread_sigmask"):
        # its own start, were it to come later, would unblock SIGINT
        resource_tracker.ensure_running()
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_LEARNER)
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if previous is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
