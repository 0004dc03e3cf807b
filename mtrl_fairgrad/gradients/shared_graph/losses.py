"""The losses given to `backward`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from mtrl_fairgrad.utils.validation import ConfigError
from mtrl_fairgrad.weighting import Method

Loss: TypeAlias = "Tensor | float"
Losses: TypeAlias = "Tensor | Sequence[Loss] | Iterable[Loss] | Mapping[Any, Loss]"
"""K scalars: a vector `[K]`, a sequence or iterator, or a mapping whose order is that of the tasks.

A number is the loss of a task without data: it has no gradient.
"""


def scalar_losses(losses: Any, device: torch.device) -> list[Tensor]:
    """Return `Losses` as K scalar tensors on a device.

    Raises:
        ConfigError: not K real scalars, or none has a gradient.
    """
    if isinstance(losses, Tensor):
        given = list[Any](losses) if losses.ndim == 1 else [losses]
        wrong_shape = losses.ndim != 1
    elif isinstance(losses, Iterable):
        values = cast(Any, losses)
        given = list[Any](values.values() if isinstance(losses, Mapping) else values)
        wrong_shape = False
    else:
        raise ConfigError(
            f"losses are a {type(losses).__name__}: give K scalar task losses, as a vector [K] or "
            "a sequence.",
            "losses",
            losses,
        )
    scalars = [_scalar(index, loss, device) for index, loss in enumerate(given)]
    wrong = next((loss for loss in scalars if loss.ndim or wrong_shape), None)
    if wrong is not None or not scalars:
        said = "are empty" if wrong is None else f"have shape {tuple(wrong.shape)}"
        raise ConfigError(
            f"losses {said}: give K scalar task losses, as a vector [K] or a sequence.",
            "losses",
            cast(Any, losses),
        )
    if not any(loss.requires_grad for loss in scalars):
        raise ConfigError(
            "losses have no gradient: compute them from the parameters without detach, item or "
            "no_grad.",
            "losses",
            cast(Any, losses),
        )
    return scalars


def _scalar(index: int, loss: Any, device: torch.device) -> Tensor:
    if isinstance(loss, int | float | Real) and not isinstance(loss, bool):
        return torch.tensor(float(loss), device=device)
    if not isinstance(loss, Tensor):
        raise ConfigError(
            f"losses[{index}] is a {type(loss).__name__}: give a scalar tensor, or the number 0.0 "
            "for a task without data.",
            f"losses[{index}]",
            loss,
        )
    if loss.is_complex():
        raise ConfigError(
            f"losses[{index}] is complex: give a real loss, such as its absolute value.",
            f"losses[{index}]",
            loss,
        )
    return loss if loss.device == device else loss.to(device)


def require_positive(method: Method, losses: Tensor) -> None:
    """Check losses `[K]` for a method that needs positive ones.

    Raises:
        ValueError: a loss below the method's `lowest_loss`.
    """
    if not method.needs_positive_losses:
        return
    losses = losses.cpu()  # the one look at values, which waits for a GPU
    lowest = torch.tensor(method.lowest_loss, dtype=losses.dtype)
    wrong = losses < lowest
    if bool(wrong.any()):
        task = int(wrong.nonzero()[0])
        needed = lowest.expand_as(losses)[task].item()
        raise ValueError(
            f"task {task}'s loss is {losses[task].item():g}: {method.name} needs losses of at "
            f"least {needed:g}; shift it, or choose another method."
        )
