"""What travels between the learner and a worker: single bytes for steps, messages for the rest.

A step is the most frequent command by far. Its actions and results are in shared memory, so all
that is sent is one byte, the number of the half to step, and the same byte back at its end. Every
other command and answer is a marker byte and a pickled message. The kernel keeps their order.
"""

import os
import pickle
import select
from multiprocessing.connection import Connection
from typing import Any

_STEPS = (b"\0", b"\1")
_MESSAGE = b"\2"


class Wire:
    """One end of the pipe between the learner and a worker.

    All methods but `close` raise EOFError or OSError if the other end is gone.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self._file = connection, connection.fileno()
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def send_step(self, half: int) -> None:
        """Send the command to step a half, or that it has been stepped."""
        os.write(self._file, _STEPS[half])

    def send(self, message: bytes) -> None:
        """Send a pickled message."""
        os.write(self._file, _MESSAGE)
        self._connection.send_bytes(message)

    def wait(self, seconds: float) -> bool:
        """Return whether `receive` has something, or fails, within `seconds`."""
        return bool(self._poll.poll(1000 * seconds))

    def receive(self) -> int | Any:
        """Wait; return the half of a step (int), or the object of a message (a tuple)."""
        word = os.read(self._file, 1)
        if not word:
            raise EOFError
        return pickle.loads(self._connection.recv_bytes()) if word == _MESSAGE else word[0]

    def close(self) -> None:
        """Close this end; the other one then reads end of file."""
        self._connection.close()
