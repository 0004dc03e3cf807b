"""Who carries out the commands: this process, or worker processes that each host several
sub-environments.

Observations, actions and rewards travel through memory shared at the start; a command is one small
message to each worker and one back. That memory is an anonymous mapping (`RawArray`), not a named
segment: nothing is left behind when the learner is killed, and Python's resource tracker has
nothing to warn about.
"""

import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.workers.host import Host, Slot, SubEnvironmentError
from mtrl_fairgrad.envs.workers.shared_memory import Buffers
from mtrl_fairgrad.envs.workers.worker_main import describe, lightweight_spawn, worker_main

GRACE_SECONDS = 2.0
"""How long `close` waits for workers that are in the middle of a command before it kills them."""
LOOK_SECONDS = 1.0
"""Longest wait for an answer at a time. More than that between two looks does not count as waiting:
this process may have been stopped meanwhile, or was busy."""
BUILD_SECONDS = 10.0
"""What each sub-environment may take on top of the limit where more than a step is asked of it: to
be built, to be reset, or to repeat an episode."""


class WorkerError(RuntimeError):
    """A sub-environment raised, or a worker was lost; the message names task and seed and holds the
    traceback.
    """


class WorkerLost(WorkerError):
    """A worker died, or did not answer in time and was killed; `loss` says so without advice."""

    def __init__(self, loss: str) -> None:
        self.loss = loss
        super().__init__(
            f"{loss}: if nobody killed it, look for a lack of memory, and resume from the last "
            "checkpoint."
        )


class InProcessPool:
    """Carries out commands in this process, when their result is asked for."""

    def __init__(self, rows: list[Slot], suite: Suite, role: str) -> None:
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
        """Carry it out. Answers row → what the command answers, if it answers anything.
        WorkerError.
        """
        with _raising():
            return self._host.run(*self._command) or {}

    def replace(self) -> bool:
        """Nobody can be lost."""
        return False

    def close(self, grace: float = 0.0) -> None:
        """Nothing to stop."""


@dataclass(frozen=True)
class _Worker:
    """A process and our end of the pipe to it."""

    process: Any
    connection: Connection

    def end(self, deadline: float) -> int | None:
        """Wait until `deadline` (of `time.monotonic`) for it to leave, then kill it; its exit code,
        None if killed.
        """
        self.connection.close()
        self.process.join(max(0.0, deadline - time.monotonic()))
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            # not for ever: one that waits for a broken disk cannot be killed
            self.process.join(GRACE_SECONDS)
        return code


class WorkerPool:
    """Carries out commands in one process per entry of `shares`, while this one does something
    else.

    A worker that does not answer a step within `timeout` seconds (None: whatever it takes) counts
    as lost, like one that died; other commands may take BUILD_SECONDS more for each of its
    sub-environments.
    """

    def __init__(
        self, shares: list[list[Slot]], suite: Suite, role: str, timeout: float | None = None
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._rows = sum(map(len, shares))
        sizes = _sizes(self._rows, suite)
        self._memory = self._context.RawArray("b", Buffers.size(*sizes))
        self.buffers = Buffers.over(self._memory, *sizes)
        self._shares, self._suite, self._role = shares, suite, role
        self._timeout = math.inf if timeout is None else timeout
        self._allowed, self._waited, self._looked = math.inf, 0.0, 0.0
        self._workers: dict[int, _Worker] = {}
        self._waiting: list[int] = []
        self._answers: dict[int, Any] = {}
        # For who forgets `close`: multiprocessing waits at exit for its children, and one that
        # hangs would never end.
        Finalize(self, _end, (self._workers, GRACE_SECONDS), exitpriority=0)
        try:
            self.replace()
        except BaseException:
            self.close()
            raise

    def replace(self) -> bool:
        """Start the workers that are missing, at first all, later those that were lost; whether
        there were any.

        The others are waited for first. WorkerLost when another one is lost meanwhile: then call it
        again. WorkerError when a sub-environment raised.
        """
        self.finish()
        missing = [number for number in range(len(self._shares)) if number not in self._workers]
        self._allow(more=True)
        for number in missing:
            self._launch(number)
        self.finish()
        return bool(missing)

    def _launch(self, number: int) -> None:
        here, there = self._context.Pipe()
        bound = threading.current_thread() is threading.main_thread()
        mine = (
            there,
            os.getpid(),
            bound,
            self._memory,
            self._rows,
            self._shares[number],
            self._suite,
            self._role,
        )
        process = self._context.Process(
            target=worker_main, args=mine, name=f"envs-{number}", daemon=True
        )
        with lightweight_spawn():
            process.start()
            self._workers[number] = _Worker(process, here)
        # The worker must hold the only other end: then its death, and ours, reads as end of file.
        there.close()
        self._waiting.append(number)

    def start(self, command: str, payload: Any = None) -> None:
        """Send the command to all workers; that one of them is gone shows when its answer is asked
        for.
        """
        # once for all, and without what `Connection.send` brings along
        message = pickle.dumps((command, payload))
        self._allow(more=command != "step")
        for number, worker in self._workers.items():
            with suppress(OSError):
                worker.connection.send_bytes(message)
            self._waiting.append(number)

    def finish(self) -> dict[int, Any]:
        """Wait for all workers. Answers row → what the command answers. WorkerError when one raised
        or was lost.

        When Ctrl-C interrupts the waiting, a second call goes on where the first one stopped.
        """
        while self._waiting:
            self._take(LOOK_SECONDS)
        answers, self._answers = self._answers, {}
        return answers

    def ready(self, timeout: float) -> bool:
        """Whether all workers answer within `timeout` seconds, so that `finish` does not wait.
        WorkerError as there.
        """
        deadline = time.monotonic() + timeout
        while self._waiting:
            left = max(0.0, deadline - time.monotonic())
            if not self._take(min(left, LOOK_SECONDS)) and left <= LOOK_SECONDS:
                return False
        return True

    def _take(self, seconds: float) -> bool:
        """Whether the first worker that owes an answer gives it within so many seconds."""
        number = self._waiting[0]
        connection = self._workers[number].connection
        try:
            if not connection.poll(seconds):
                self._count(number)
                return False
            message = connection.recv_bytes()
        except (EOFError, OSError):
            raise self._lose(number) from None
        self._waiting.pop(0)
        error, answer = pickle.loads(message)
        if error is not None:
            raise WorkerError(error)
        self._answers.update(answer or {})
        return True

    def close(self, grace: float = GRACE_SECONDS) -> None:
        """Let the workers go: at end of file they leave by themselves, after `grace` seconds they
        are killed.
        """
        _end(self._workers, grace)
        self._waiting = []

    # ---- patience ----

    def _allow(self, more: bool) -> None:
        """The time for the next answers begins; `more` than for a step."""
        rows = max(map(len, self._shares)) if more else 0
        self._allowed, self._waited, self._looked = (
            self._timeout + rows * BUILD_SECONDS,
            0.0,
            time.monotonic(),
        )

    def _count(self, number: int) -> None:
        """Add the time since the last look to what was waited; WorkerLost when that is too much."""
        now = time.monotonic()
        self._waited += min(now - self._looked, LOOK_SECONDS)
        self._looked = now
        if self._waited > self._allowed:
            raise self._lose(number, late=True)

    def _lose(self, number: int, late: bool = False) -> WorkerLost:
        """ObservationPart with a worker that is too `late`, or about to die by itself."""
        worker = self._workers[number]
        code = worker.end(time.monotonic() + (0.0 if late else GRACE_SECONDS))
        del self._workers[number]
        self._waiting.remove(number)
        reason = f" ({signal.Signals(-code).name})" if code is not None and code < 0 else ""
        how = f"died with exit code {code}{reason}"
        if late:
            how = f"did not answer within {self._allowed:g} s and was killed"
        hosted = "; ".join(map(str, self._shares[number]))
        return WorkerLost(
            f"environment worker {number} (pid {worker.process.pid}) {how}, it hosted {hosted}"
        )


def _end(workers: dict[int, _Worker], grace: float) -> None:
    """Take all of them out of `workers`, one by one, so that what Ctrl-C interrupts can be done
    later.
    """
    for worker in workers.values():
        worker.connection.close()
    deadline = time.monotonic() + grace
    while workers:
        number = next(iter(workers))
        workers[number].end(deadline)
        del workers[number]


def _sizes(rows: int, suite: Suite) -> tuple[int, int, int]:
    """What the buffers' sizes depend on."""
    return rows, suite.observation_size, suite.action_size


@contextmanager
def _raising() -> Iterator[None]:
    try:
        yield
    except SubEnvironmentError as error:
        raise WorkerError(describe(error)) from error.__cause__
