"""Main function of a worker process: host sub-environments and exit with the learner."""

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
from multiprocessing import get_start_method, resource_tracker, set_start_method
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.workers.host import Host, Slot, SubEnvironmentError
from mtrl_fairgrad.envs.workers.shared_memory import Buffers
from mtrl_fairgrad.envs.workers.wire import Wire

STOP_SIGNALS = frozenset(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
"""Signals that ask a run to stop; workers ignore them."""

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal sent when the parent thread ends."""


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
    """Execute commands in order until end of file; answer with (error or None, answer).

    A step without an error is answered by its byte, see `Wire`.

    Args:
        connection: pipe to the learner.
        learner: process id of the learner.
        bound: whether the thread that started this process lives as long as the learner.
        memory: memory of `Buffers` for all `rows`.
        rows: N.
        share: the sub-environments to host.
        suite: the suite of all of them.
        role: `train` or `eval`.
    """
    # Ctrl-C and a job manager's signals go to the whole group; the learner decides when to stop and
    # needs its workers until then.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _exit_with_learner(learner, bound)
    wire = Wire(connection)
    try:
        try:
            buffers = Buffers.over(memory, rows, suite.observation_size, suite.action_size)
            host = Host(share, suite, role, buffers)
            wire.send(pickle.dumps((None, None)))
            while True:
                received = wire.receive()
                if isinstance(received, int):
                    host.run("step", received)
                    wire.send_step(received)
                else:
                    wire.send(pickle.dumps((None, host.run(*received))))
        except SubEnvironmentError as error:
            wire.send(pickle.dumps((describe(error), None)))
    except (EOFError, OSError):
        return


def _exit_with_learner(learner: int, bound: bool) -> None:
    """Exit when the learner exits, for whatever reason.

    End of file does not suffice: a fork of the learner may hold the pipe, and a simulator that
    hangs never reads it. On Linux the kernel kills this process, even if it is stopped or blocks
    its other threads.
    """
    if bound and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == learner:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def describe(error: SubEnvironmentError) -> str:
    """Format an error: where it happened and what, then the original traceback."""
    cause = error.__cause__
    assert cause is not None
    text = "".join(traceback.format_exception(cause)).rstrip()
    where = f"the environment of {error} raised {type(cause).__name__}: {cause}"
    return f"{where}\n\nTraceback of the worker:\n{text}"


@contextmanager
def lightweight_spawn() -> Iterator[None]:
    """Start processes that import nothing of the main program and ignore Ctrl-C from the start.

    `spawn` imports the main module in each child: for the trainer this includes torch (seconds, 300
    MB each). An empty stand-in avoids it. `spawn` also tells the child to adopt this process's
    default start method; joblib's processes have one of their own, `loky`, which a child does not
    know. A signal blocked here stays blocked in the child.
    """
    main, start_method = sys.modules["__main__"], get_start_method(allow_none=True)
    sys.modules["__main__"] = ModuleType("__main__")
    set_start_method("spawn", force=True)
    previous = None
    if hasattr(signal, "pthread_sigmask"):
        # If it started later, it would unblock SIGINT.
        resource_tracker.ensure_running()
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        set_start_method(start_method, force=True)
        if previous is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
