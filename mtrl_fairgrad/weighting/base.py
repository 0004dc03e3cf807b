"""The three kinds of multi-task method, and the registry that makes one by its name.

Every method answers how the gradients of K tasks become one update. What it has to look at decides its kind:

| kind | sees | costs |
|---|---|---|
| `LossWeighting` | the losses `[..., K]` | one ordinary backward pass |
| `GramianWeighting` | the Gramian `[..., K, K]`, `M_ij = g_iᵀg_j` | one Jacobian |
| `JacobianAggregation` | the task gradients themselves, name -> `[..., K, *shape]` | one Jacobian |

Shapes, here and in the whole package: `K` tasks; `...` any leading axes, none included, each element of
which is a problem of its own (a seed, say). Task `i` is entry `i` of the last axis of losses, weights and
Gramians.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn


class Weights(NamedTuple):
    """What a loss or Gramian weighting answers."""

    weights: Tensor
    """`[..., K]`: the update is `Σ_i weights_i · g_i`. Never part of an autograd graph."""
    diagnostics: dict[str, Tensor]
    """What the method did, each `[...]` or `[..., K]`."""


class Aggregate(NamedTuple):
    """What a Jacobian aggregation answers."""

    direction: dict[str, Tensor]
    """Name -> `[..., *shape]`; the optimiser subtracts it."""
    diagnostics: dict[str, Tensor]
    """What the method did, each `[...]` or `[..., K]`."""


class Method(nn.Module):
    """A way to combine task gradients; a module, so that state lives in buffers and moves and saves."""

    name: ClassVar[str]
    """Registry key, file name, configuration name and command-line word."""
    needs_positive_losses: ClassVar[bool] = False
    """Whether it is meaningless for losses that may be negative, such as an actor's."""

    def init(self, tasks: int, batch_shape: tuple[int, ...] = (), template: Mapping[str, Tensor] | None = None) -> Self:
        """Give the method its state; call once before the first use. Methods without state need no call.

        Args:
            tasks: K.
            batch_shape: the leading axes of everything it will see.
            template: a Jacobian, name -> `[..., K, *shape]`, for methods that remember gradients.
        """
        return self

    def reset(self) -> None:
        """Return to the state right after `init`."""

    def draw(self, generators: Sequence[torch.Generator]) -> Tensor | None:
        """Random numbers for one call, one generator per leading element; None for methods that need none."""
        return None

    def after_step(self, losses: Tensor) -> None:
        """Tell the method the losses `[..., K]` of the same batch after the optimiser's step."""


class LossWeighting(Method):
    """A method that weights losses by looking at losses."""

    def forward(self, losses: Tensor, noise: Tensor | None = None) -> Weights:
        """Weights `[..., K]` for losses `[..., K]`; `noise` is what `draw` returned."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward.")

    if TYPE_CHECKING:  # nn.Module types calls as Any

        def __call__(self, losses: Tensor, noise: Tensor | None = None) -> Weights: ...  # noqa: D102


class GramianWeighting(Method):
    """A method that weights gradients by looking at their inner products."""

    def forward(self, gramian: Tensor, losses: Tensor | None = None, noise: Tensor | None = None) -> Weights:
        """Weights `[..., K]` for a Gramian `[..., K, K]`; `noise` is what `draw` returned."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward.")

    if TYPE_CHECKING:

        def __call__(  # noqa: D102
            self, gramian: Tensor, losses: Tensor | None = None, noise: Tensor | None = None
        ) -> Weights: ...


class JacobianAggregation(Method):
    """A method that needs the task gradients coordinate by coordinate."""

    def forward(
        self, jacobian: Mapping[str, Tensor], losses: Tensor | None = None, noise: Tensor | None = None
    ) -> Aggregate:
        """One direction for a Jacobian, name -> `[..., K, *shape]`; `noise` is what `draw` returned."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward.")

    if TYPE_CHECKING:

        def __call__(  # noqa: D102
            self, jacobian: Mapping[str, Tensor], losses: Tensor | None = None, noise: Tensor | None = None
        ) -> Aggregate: ...


M = TypeVar("M", bound=Method)

_METHODS: dict[str, type[Method]] = {}


def register(method: type[M]) -> type[M]:
    """Class decorator: make the method known by its `name`.

    Raises:
        ValueError: the class has no `name` of its own, or another class has it already.
    """
    name = vars(method).get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{method.__name__} has no name: set the class attribute name, such as name = 'ls'.")
    if _METHODS.get(name, method) is not method:
        raise ValueError(f"name={name} belongs to {_METHODS[name].__name__}: give {method.__name__} another.")
    _METHODS[name] = method
    return method


def names() -> tuple[str, ...]:
    """All registered methods, in alphabetical order."""
    return tuple(sorted(_METHODS))


def options(name: str) -> dict[str, Any]:
    """The hyper-parameters of a method with their defaults, in the constructor's order.

    Raises:
        ValueError: no method has this name.
    """
    parameters = inspect.signature(_find(name).__init__).parameters
    return {option: parameter.default for option, parameter in parameters.items() if option != "self"}


def make(name: str, **chosen: Any) -> Method:
    """The method called `name` with the given hyper-parameters, the others at their defaults.

    Raises:
        ValueError: no such method, an option the method does not have, or a value it does not allow.
    """
    method, allowed = _find(name), options(name)
    for option in chosen:
        if option not in allowed:
            owners = [other for other in names() if option in options(other)]
            elsewhere = f", or choose method={' or method='.join(owners)}" if owners else ""
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise ValueError(f"method={name} has no option '{option}': {takes}. Drop it{elsewhere}.")
    return method(**chosen)


def _find(name: str) -> type[Method]:
    if name in _METHODS:
        return _METHODS[name]
    close = difflib.get_close_matches(str(name).lower(), names(), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "choose one of them."
    raise ValueError(f"method={name} is unknown; the methods are {', '.join(names())}: {hint}")
