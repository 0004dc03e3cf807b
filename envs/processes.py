"""Who carries out the commands: this process, or worker processes that each host several sub-environments.

Observations, actions and rewards travel through memory shared at the start; a command is one small message to
each worker and one back. That memory is an anonymous mapping (`RawArray`), not a named segment: nothing is
left behind when the learner is killed, and Python's resource tracker has nothing to warn about.
"""

import multiprocessing
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

from envs.buffers import Buffers
from envs.episodes import Suite
from envs.host import Host, Row, SubEnvironmentError

GRACE_SECONDS = 2.0
"""How long `close` waits for workers that are in the middle of a command before it kills them."""

FOR_THE_LEARNER = frozenset(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""Signals that ask a run to stop."""


class WorkerError(RuntimeError):
    """A sub-environment raised, or a worker died; the message names task and seed and holds the traceback."""


class Inline:
    """Carries out commands in this process, when their result is asked for."""

    def __init__(self, rows: list[Row], suite: Suite, role: str) -> None:
        sizes = _sizes(len(rows), suite)
        self.buffers = Buffers.over(bytearray(Buffers.size(*sizes)), *sizes)
        self._command: tuple[str, Any] = ("", None)
        with _raising():
            self._host = Host(rows, suite, role, self.buffers)

    def start(self, command: str, payload: Any = None) -> None:
        """Remember the command."""
        self._command = command, payload

    def ready(self, timeout: float) -> bool:
        """Always: nobody else is at work on it."""
        return True

    def finish(self) -> dict[int, Any]:
        """Carry it out. Answers row → what the command answers, if it answers anything. WorkerError."""
        with _raising():
            return self._host.run(*self._command) or {}

    def close(self) -> None:
        """Nothing to stop."""


class Workers:
    """Carries out commands in one process per entry of `shares`, while this one does something else."""

    def __init__(self, shares: list[list[Row]], suite: Suite, role: str) -> None:
        context = multiprocessing.get_context("spawn")
        rows = sum(map(len, shares))
        sizes = _sizes(rows, suite)
        memory = context.RawArray("b", Buffers.size(*sizes))
        self.buffers = Buffers.over(memory, *sizes)
        self._shares = shares
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._waiting: list[int] = []
        self._answers: dict[int, Any] = {}
        try:
            for number, share in enumerate(shares):
                here, there = context.Pipe()
                process = context.Process(
                    target=_serve,
                    args=(there, memory, rows, share, suite, role),
                    name=f"envs-{number}",
                    daemon=True,
                )
                with _bare_start():
                    process.start()
                # The worker must hold the only other end: then its death, and ours, reads as end of file.
                there.close()
                self._connections.append(here)
                self._processes.append(process)
                self._waiting.append(number)
            self.finish()
        except BaseException:
            self.close()
            raise

    def start(self, command: str, payload: Any = None) -> None:
        """Send the command to all workers. WorkerError when one of them is gone."""
        message = pickle.dumps((command, payload))  # once for all, and without what `Connection.send` brings along
        for number, connection in enumerate(self._connections):
            try:
                connection.send_bytes(message)
            except OSError:
                raise self._death(number) from None
            self._waiting.append(number)

    def finish(self) -> dict[int, Any]:
        """Wait for all workers. Answers row → what the command answers. WorkerError when one raised or died.

        When Ctrl-C interrupts the waiting, a second call goes on where the first one stopped.
        """
        while self._waiting:
            self._take()
        answers, self._answers = self._answers, {}
        return answers

    def ready(self, timeout: float) -> bool:
        """Whether all workers answer within `timeout` seconds, so that `finish` does not wait. WorkerError as there."""
        deadline = time.monotonic() + timeout
        while self._waiting and self._connections[self._waiting[0]].poll(max(0.0, deadline - time.monotonic())):
            self._take()
        return not self._waiting

    def _take(self) -> None:
        """The answer of the first worker that owes one."""
        number = self._waiting[0]
        try:
            message = self._connections[number].recv_bytes()
        except (EOFError, OSError):
            raise self._death(number) from None
        self._waiting.pop(0)
        error, answer = pickle.loads(message)
        if error is not None:
            raise WorkerError(error)
        self._answers.update(answer or {})

    def close(self) -> None:
        """Let the workers go: at end of file they leave by themselves, after the grace they are killed."""
        for connection in self._connections:
            connection.close()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._connections, self._processes, self._waiting = [], [], []

    def _death(self, number: int) -> WorkerError:
        process = self._processes[number]
        process.join(GRACE_SECONDS)
        code = process.exitcode
        reason = f" ({signal.Signals(-code).name})" if code is not None and code < 0 else ""
        hosted = "; ".join(map(str, self._shares[number]))
        return WorkerError(
            f"environment worker {number} (pid {process.pid}) died with exit code {code}{reason}, it hosted"
            f" {hosted}: if nobody killed it, look for a lack of memory, and resume from the last checkpoint."
        )


def _sizes(rows: int, suite: Suite) -> tuple[int, int, int]:
    """What the buffers' sizes depend on."""
    return rows, suite.observation_size, suite.action_size


def _serve(connection: Connection, memory: Any, rows: int, share: list[Row], suite: Suite, role: str) -> None:
    """A worker's life: build its share, answer commands with (error or None, answer) until end of file."""
    # Ctrl-C and a job manager's signals go to the whole group: the learner decides when to stop and needs us
    # until then.
    for number in FOR_THE_LEARNER:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    try:
        try:
            host = Host(share, suite, role, Buffers.over(memory, *_sizes(rows, suite)))
            connection.send_bytes(pickle.dumps((None, None)))
            while True:
                command, payload = pickle.loads(connection.recv_bytes())
                connection.send_bytes(pickle.dumps((None, host.run(command, payload))))
        except SubEnvironmentError as error:
            connection.send_bytes(pickle.dumps((_describe(error), None)))
    except (EOFError, OSError):
        return


def _leave_with(parent: int) -> None:
    """Exit with the parent: end of file may not come while a fork of it still holds our connection."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _describe(error: SubEnvironmentError) -> str:
    """Where it happened and what, then the original traceback."""
    cause = error.__cause__
    assert cause is not None
    text = "".join(traceback.format_exception(cause)).rstrip()
    return f"the environment of {error} raised {type(cause).__name__}: {cause}\n\nThere:\n{text}"


@contextmanager
def _raising() -> Iterator[None]:
    try:
        yield
    except SubEnvironmentError as error:
        raise WorkerError(_describe(error)) from error.__cause__


@contextmanager
def _bare_start() -> Iterator[None]:
    """Start a process that imports nothing of the program that starts it, and ignores Ctrl-C from birth.

    `spawn` imports the main module again in each child, for us the trainer and with it torch (seconds and 300
    MB each); an empty stand-in leaves it nothing to import. A blocked signal stays blocked in the child, and
    waits here.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    previous = None
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # its own start, were it to come later, would unblock SIGINT
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_LEARNER)
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if previous is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
