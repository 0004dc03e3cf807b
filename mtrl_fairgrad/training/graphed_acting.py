"""Actions of a policy on a GPU: few copies, a CUDA graph, and one wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl_fairgrad.gradients.cuda_graph import Graphed
from mtrl_fairgrad.gradients.cuda_recorder import Recorder


class GraphedActing:
    """A policy whose sampled actions are replayed from a CUDA graph.

    Args:
        act: takes observations `[S, K, ..., O]` and noise `[S, K, ..., A]` of the device and
            returns actions like the noise; its parameters change in place.
        device: where it computes.
        recorder: captures it.
    """

    def __init__(
        self, act: Callable[[Tensor, Tensor], Tensor], device: torch.device, recorder: Recorder
    ) -> None:
        self._graphed = Graphed(lambda inputs: act(*inputs), "actions", recorder)
        self._device, self._recorder = device, recorder
        self._actions: Tensor | None = None

    def __call__(self, observations: Tensor, noise: Tensor) -> NDArray[np.float32]:
        """Return the actions, shaped like the noise.

        Args:
            observations: float32 `[S, K, ..., O]` on the CPU, of the same shape in every call.
            noise: standard normal `[S, K, ..., A]` on the device.
        """
        inputs = send(observations, self._device, self._recorder)
        actions = self._graphed((inputs, noise))
        if self._actions is None:
            self._actions = self._recorder.host_like(actions)
        self._actions.copy_(actions, non_blocking=True)
        self._recorder.wait()
        return self._actions.numpy().copy()


def send(tensor: Tensor, device: torch.device, recorder: Recorder) -> Tensor:
    """Copy a tensor of the CPU to a device without waiting for it.

    PyTorch reuses the pinned memory in between only after it was read.
    """
    return recorder.host_like(tensor).copy_(tensor).to(device, non_blocking=True)


def send_packed(
    arrays: Sequence[NDArray[Any]],
    shape: tuple[int, ...],
    device: torch.device,
    recorder: Recorder,
) -> list[Tensor]:
    """Copy arrays `[N, ...]` to a device by one copy, without waiting for it.

    Returns:
        float32 `[*shape, ...]`, where `shape` has N elements, views of one tensor.
    """
    columns = [array.reshape(*shape, -1) for array in arrays]
    packed = np.concatenate(columns, axis=-1, dtype=np.float32, casting="unsafe")
    parts = send(torch.from_numpy(packed), device, recorder).split(
        [column.shape[-1] for column in columns], dim=-1
    )
    return [
        part.reshape(*shape, *array.shape[1:]) for part, array in zip(parts, arrays, strict=True)
    ]
