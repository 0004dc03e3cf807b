"""The calls of `torch.cuda` that capturing and replaying need, behind an interface for tests."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

_torch: Any = torch  # its CUDA part is incompletely annotated


class Recorder(Protocol):
    """Records what a device is asked to do, without doing it, as replayable sections.

    `begin` and `end` are called within `session`, in turns.
    """

    def session(self) -> contextlib.AbstractContextManager[None]:
        """Prepare for sections that share memory; after an error, restore everything."""
        ...

    def begin(self) -> None:
        """Begin a section."""
        ...

    def end(self) -> Callable[[], None]:
        """End the section and return the function that replays it."""
        ...

    def host_like(self, tensor: Tensor) -> Tensor:
        """Allocate host memory that can be copied to and from the device asynchronously."""
        ...

    def wait(self) -> None:
        """Wait until the device has done what it was asked to."""
        ...


class CudaRecorder:
    """Captures CUDA graphs on a stream of its own.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = None
        self._pool: Any = None
        self._graph: Any = None

    @contextmanager
    def session(self) -> Generator[None]:
        """Use one side stream and one memory pool; after an error, end the capture.

        A failed capture leaves the states of random number generators so that every draw, and
        every replay of an earlier graph, raises an error. So captures get copies of the states.
        """
        cuda = _torch.cuda
        with cuda.device(self.device):
            cuda.synchronize()
            gc.collect()  # nothing may free a graph during the capture
            cuda.empty_cache()
            generators = list(cuda.default_generators)
            states = [generator.graphsafe_get_state() for generator in generators]
            for generator in generators:
                generator.graphsafe_set_state(generator.clone_state())
            self._stream = self._stream or cuda.Stream()
            self._pool = cuda.graph_pool_handle()
            current = cuda.current_stream()
            self._stream.wait_stream(current)
            try:
                with cuda.stream(self._stream):
                    try:
                        yield
                    except BaseException:
                        self._abort()
                        raise
            except BaseException:
                cuda.synchronize()
                raise
            finally:
                for generator, state in zip(generators, states, strict=True):
                    generator.graphsafe_set_state(state)
            current.wait_stream(self._stream)

    def begin(self) -> None:
        """Begin a graph, which calls of other threads cannot invalidate."""
        self._graph = _torch.cuda.CUDAGraph()
        self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> Callable[[], None]:
        """End the graph; it is replayed on the stream that is current then."""
        graph, self._graph = self._graph, None
        try:
            graph.capture_end()
        except BaseException:
            self._graph = graph  # `session` aborts it
            raise
        return graph.replay

    def _abort(self) -> None:
        """End a capture whose result is of no use, if one is under way."""
        graph, self._graph = self._graph, None
        if graph is None:
            return
        try:
            graph.capture_end()
        except RuntimeError:  # it says again that the capture is invalid, and leaves out its end:
            with contextlib.suppress(RuntimeError):
                _torch._C._cuda_endAllocateToPool(_torch.cuda.current_device(), self._pool)

    def host_like(self, tensor: Tensor) -> Tensor:
        """Allocate pinned memory."""
        return torch.empty_like(tensor, device="cpu", pin_memory=True)

    def wait(self) -> None:
        """Wait for the current stream."""
        _torch.cuda.current_stream(self.device).synchronize()
