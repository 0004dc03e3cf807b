"""Resolve the name of a PyTorch device, and name its model; only the calls import PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtrl_fairgrad.utils.validation import ConfigError, check_device

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """Return the device called `name`: `auto` (CUDA if available), `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: the name is malformed, or this machine has no such device.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_device(name)
    kind, _, index = name.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={name} is not available: PyTorch {torch.__version__} finds "
            f"{torch.cuda.device_count()} CUDA devices here: choose device=cpu, or install a CUDA "
            "build of PyTorch."
        )
    return torch.device(name)


def accelerator_name(device: str) -> str | None:
    """Return the model of a GPU, `cuda` or `cuda:N`; None for the processor."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_name(device)
