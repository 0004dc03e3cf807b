"""Run commands on all sub-environments, in this process or in worker processes.

Observations, actions and rewards travel through memory shared at the start; a step is one byte to
each worker and one back. The memory is an anonymous mapping (`RawArray`), not a named segment:
nothing is left behind when the learner is killed.

Commands are executed in the order in which they were started. A step is of one half of the copies,
and the next command may be started before it ends: that of the other half, so that workers always
have work, or any other, whose end is then the end of both.
"""

import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from typing import Any, TypeVar

from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.workers.host import Host, Slot, SubEnvironmentError
from mtrl_fairgrad.envs.workers.load_balancing import rebalance
from mtrl_fairgrad.envs.workers.shared_memory import Buffers
from mtrl_fairgrad.envs.workers.wire import Wire
from mtrl_fairgrad.envs.workers.worker_main import describe, lightweight_spawn, worker_main

Result = TypeVar("Result")

GRACE_SECONDS = 2.0
"""How long `close` waits for workers in the middle of a command before it kills them."""
LOOK_SECONDS = 1.0
"""Longest wait for an answer at a time. Longer gaps do not count as waiting, since this process may
have been stopped or busy meanwhile.
"""
BUILD_SECONDS = 10.0
"""Extra time for each sub-environment where a command takes longer than a step: building,
resetting, repeating an episode.
"""


class WorkerError(RuntimeError):
    """A sub-environment raised or a worker was lost; names task and seed, holds the traceback."""


class WorkerLost(WorkerError):
    """A worker died, or did not answer in time and was killed.

    Attributes:
        loss: the message without advice.
    """

    def __init__(self, loss: str) -> None:
        self.loss = loss
        super().__init__(
            f"{loss}: unless it was killed on purpose, check the memory of this machine, and "
            "resume from the last checkpoint."
        )


LossHandler = Callable[[WorkerLost], None]


def retry_after_losses(action: Callable[[], Result], on_lost: LossHandler | None) -> Result:
    """Repeat `action` as long as it loses workers and `on_lost`, called for each, does not raise.

    Without `on_lost` the first loss is raised.
    """
    while True:
        try:
            return action()
        except WorkerLost as lost:
            if on_lost is None:
                raise
            on_lost(lost)


class InProcessPool:
    """Runs commands in this process, when their result is requested."""

    def __init__(self, rows: list[Slot], suite: Suite, role: str) -> None:
        sizes = _sizes(len(rows), suite)
        self.buffers = Buffers.over(bytearray(Buffers.size(*sizes)), *sizes)
        self._queue: deque[tuple[str, Any]] = deque()
        with _raising():
            self._host = Host(rows, suite, role, self.buffers)

    def start(self, command: str, payload: Any = None) -> None:
        """Store the command; the payload of `step` is its half."""
        self._queue.append((command, payload))

    def ready(self, timeout: float, half: int) -> bool:
        """Return True: no other process is involved."""
        return True

    def finish(self, half: int | None = None) -> dict[int, Any]:
        """Run the stored commands, with `half` up to its step; return row -> answer.

        Raises:
            WorkerError: a sub-environment raised.
        """
        answers: dict[int, Any] = {}
        while self._queue if half is None else ("step", half) in self._queue:
            with _raising():
                answers |= self._host.run(*self._queue.popleft()) or {}
        return answers

    def replace(self) -> bool:
        """Return False: no worker can be lost."""
        return False

    def rebalance(self, shares: list[list[Slot]] | None = None) -> int:
        """Return 0: there is one process."""
        return 0

    def close(self, grace: float = 0.0) -> None:
        """Do nothing."""


@dataclass
class _Worker:
    """A worker process and the learner's end of its pipe."""

    process: Any
    wire: Wire
    owed: deque[int | None] = field(default_factory=deque)
    """Commands without an answer so far, in order: the half of a step, None for the others."""
    waited: float = 0.0
    """Seconds that the learner has waited for the first of them."""

    def end(self, deadline: float) -> int | None:
        """Wait until `deadline` (`time.monotonic`) for its exit, then kill it.

        Returns the exit code, None if killed.
        """
        self.wire.close()
        self.process.join(max(0.0, deadline - time.monotonic()))
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            # With a limit, because a process that waits for a broken disk cannot be killed.
            self.process.join(GRACE_SECONDS)
        return code


class WorkerPool:
    """Runs commands in one process per entry of `shares`, in parallel with the learner.

    A worker that does not answer a step within `timeout` seconds (None: unlimited) counts as lost,
    like one that died. Other commands may take BUILD_SECONDS longer for each of its
    sub-environments. One that is lost while it starts is replaced if `on_lost` does not raise.
    """

    def __init__(
        self,
        shares: list[list[Slot]],
        suite: Suite,
        role: str,
        timeout: float | None = None,
        on_lost: LossHandler | None = None,
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._rows = sum(map(len, shares))
        sizes = _sizes(self._rows, suite)
        self._memory = self._context.RawArray("b", Buffers.size(*sizes))
        self.buffers = Buffers.over(self._memory, *sizes)
        self._shares, self._suite, self._role = shares, suite, role
        self._timeout = math.inf if timeout is None else timeout
        self._looked = 0.0
        self._workers: dict[int, _Worker] = {}
        self._answers: dict[int, Any] = {}
        # If `close` is not called: multiprocessing waits at exit for its children, and one that
        # hangs would never end.
        Finalize(self, _end, (self._workers, GRACE_SECONDS), exitpriority=0)
        try:
            retry_after_losses(self.replace, on_lost)
        except BaseException:
            self.close()
            raise

    def replace(self) -> bool:
        """Start missing workers, at first all of them; return whether there were any.

        Waits for the others first.

        Raises:
            WorkerLost: another worker was lost meanwhile; call it again.
            WorkerError: a sub-environment raised.
        """
        self.finish()
        missing = [number for number in range(len(self._shares)) if number not in self._workers]
        self._looked = time.monotonic()
        for number in missing:
            self._launch(number)
        self.finish()
        return bool(missing)

    def rebalance(self, shares: list[list[Slot]] | None = None) -> int:
        """Move sub-environments to other workers if their measured step times say that it pays.

        The new worker repeats the running episode. Where that comes out differently, the old one
        keeps the sub-environment. So nothing that a step returns depends on it.

        Args:
            shares: the new share of each worker, instead of what measured times suggest.

        Returns:
            how many were moved.

        Raises:
            WorkerError: a sub-environment raised or a worker was lost.
        """
        if shares is None:
            shares = rebalance(self._shares, self.buffers.step_seconds)
        before = {row: number for number, share in enumerate(self._shares) for row in share}
        taken = {
            number: [row for row in share if before[row] != number]
            for number, share in enumerate(shares)
        }
        if not any(taken.values()):
            return 0
        self.start("get_state")
        states = self.finish()
        try:
            for number, rows in taken.items():
                self._send(number, "adopt", {row: states[row.index] for row in rows})
            refused = self.finish()
            after = {
                row: before[row] if row.index in refused else number
                for number, share in enumerate(shares)
                for row in share
            }
            for number, share in enumerate(shares):
                mine = {row for row in {*share, *self._shares[number]} if after[row] != number}
                self._send(number, "drop", {row.index for row in mine})
            self.finish()
        except BaseException:
            # Some sub-environments may have two hosts.
            _end(self._workers, 0.0)
            raise
        self._shares = [
            [row for row in after if after[row] == number] for number in range(len(shares))
        ]
        return sum(after[row] != before[row] for row in after)

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
            self._workers[number] = _Worker(process, Wire(here), deque([None]))
        # The worker must hold the only other end, so that its exit, and ours, reads as end of file.
        there.close()

    def start(self, command: str, payload: Any = None) -> None:
        """Send a command to all workers; a lost worker is reported by `finish`.

        The payload of `step` is its half.
        """
        self._looked = time.monotonic()
        if command == "step":
            for worker in self._workers.values():
                with suppress(OSError):
                    worker.wire.send_step(payload)
                worker.owed.append(payload)
        else:
            message = pickle.dumps((command, payload))
            for number in self._workers:
                self._post(number, message)

    def _send(self, number: int, command: str, payload: Any) -> None:
        """Send a command to one worker."""
        self._looked = time.monotonic()
        self._post(number, pickle.dumps((command, payload)))

    def _post(self, number: int, message: bytes) -> None:
        with suppress(OSError):
            self._workers[number].wire.send(message)
        self._workers[number].owed.append(None)

    def finish(self, half: int | None = None) -> dict[int, Any]:
        """Wait for all workers to end all commands, or the step of `half`; return row -> answer.

        After an interruption by Ctrl-C, a second call continues.

        Raises:
            WorkerError: a sub-environment raised or a worker was lost.
        """
        for number, worker in list(self._workers.items()):
            while _owes(worker, half):
                self._take(number, LOOK_SECONDS)
        answers, self._answers = self._answers, {}
        return answers

    def ready(self, timeout: float, half: int) -> bool:
        """Return whether all workers end the step of `half` within `timeout` seconds.

        True if it is not running.

        Raises:
            WorkerError: a sub-environment raised or a worker was lost.
        """
        deadline = time.monotonic() + timeout
        for number, worker in list(self._workers.items()):
            while _owes(worker, half):
                left = max(0.0, deadline - time.monotonic())
                if not self._take(number, min(left, LOOK_SECONDS)) and left <= LOOK_SECONDS:
                    return False
        return True

    def _take(self, number: int, seconds: float) -> bool:
        """Return whether a worker gives the first answer that it owes within `seconds`."""
        worker = self._workers[number]
        try:
            if not worker.wire.wait(seconds):
                self._count(number)
                return False
            received = worker.wire.receive()
        except (EOFError, OSError):
            raise self._lose(number) from None
        worker.owed.popleft()
        worker.waited = 0.0
        if not isinstance(received, int):
            error, answer = received
            if error is not None:
                raise WorkerError(error)
            self._answers.update(answer or {})
        return True

    def close(self, grace: float = GRACE_SECONDS) -> None:
        """Close the pipes, at which workers exit; kill them after `grace` seconds."""
        _end(self._workers, grace)

    # ---- time limits ----

    def _allowed(self, number: int) -> float:
        """Return the time limit of the first answer that a worker owes."""
        more = self._workers[number].owed[0] is None
        return self._timeout + more * BUILD_SECONDS * max(map(len, self._shares))

    def _count(self, number: int) -> None:
        """Add the time since the last look; WorkerLost if worker `number` exceeds its limit."""
        now = time.monotonic()
        for worker in self._workers.values():
            worker.waited += min(now - self._looked, LOOK_SECONDS) if worker.owed else 0.0
        self._looked = now
        if self._workers[number].waited > self._allowed(number):
            raise self._lose(number, late=True)

    def _lose(self, number: int, late: bool = False) -> WorkerLost:
        """Remove a worker that is `late` or is dying."""
        worker, allowed = self._workers[number], self._allowed(number)
        code = worker.end(time.monotonic() + (0.0 if late else GRACE_SECONDS))
        del self._workers[number]
        reason = f" ({signal.Signals(-code).name})" if code is not None and code < 0 else ""
        how = f"died with exit code {code}{reason}"
        if late:
            how = f"did not answer within {allowed:g} s and was killed"
        hosted = "; ".join(map(str, self._shares[number]))
        return WorkerLost(
            f"environment worker {number} (pid {worker.process.pid}) {how}, it hosted {hosted}"
        )


def _end(workers: dict[int, _Worker], grace: float) -> None:
    """Stop all workers, removing one at a time, so that an interrupted call can be repeated."""
    for worker in workers.values():
        worker.wire.close()
    deadline = time.monotonic() + grace
    while workers:
        number = next(iter(workers))
        workers[number].end(deadline)
        del workers[number]


def _owes(worker: _Worker, half: int | None) -> bool:
    """Return whether a worker owes an answer to the step of `half`; None: any answer."""
    return bool(worker.owed) if half is None else half in worker.owed


def _sizes(rows: int, suite: Suite) -> tuple[int, int, int]:
    """Return the arguments that determine the buffers' size."""
    return rows, suite.observation_size, suite.action_size


@contextmanager
def _raising() -> Iterator[None]:
    try:
        yield
    except SubEnvironmentError as error:
        raise WorkerError(describe(error)) from error.__cause__
