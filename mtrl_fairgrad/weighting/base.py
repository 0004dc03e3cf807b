"""The three kinds of multi-task method.

Every method answers how the gradients of K tasks become one update. What it has to look at decides
its kind:

| kind | sees | costs |
|---|---|---|
| `LossWeighting` | the losses `[..., K]` | one ordinary backward pass |
| `GramianWeighting` | the Gramian `[..., K, K]`, `M_ij = g_iᵀg_j` | one Jacobian |
| `JacobianAggregation` | the task gradients themselves, name -> `[..., K, *shape]` | one Jacobian |

Shapes, here and in the whole package: `K` tasks; `...` any leading axes, none included, each
element of which is a problem of its own (a seed, say). Task `i` is entry `i` of the last axis of
losses, weights and Gramians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

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
    """A way to combine task gradients; a module, so that state lives in buffers and moves and
    saves.

    A method with state or randomness must be given its sizes once by `init`; others need no call.
    State is updated in place, never depends on a value on the host, and keeps every element of the
    leading axes to itself: those axes come first in each of its tensors, except in bare counters.
    """

    name: ClassVar[str]
    """Registry key, file name, configuration name and command-line word."""
    needs_positive_losses: bool = False
    """Whether it is meaningless for losses that may be negative, such as an actor's. Such a method
    answers NaN for an element of the leading axes with a loss that is not above `lowest_loss`;
    `backward` refuses it.
    """
    lowest_loss: float = 0.0
    """What losses must exceed, for methods that need positive ones."""
    looks_after_step: bool = False
    """Whether `after_step` must be called after every optimiser step."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: int | None = None
        """K, once `init` was called."""
        self.batch_shape: tuple[int, ...] = ()
        """The leading axes, once `init` was called."""
        self._starts: dict[str, float] = {}
        self._device: torch.device | None = None

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Give the method its sizes and its state, as at the beginning; needless for methods
        without either.

        Args:
            tasks: K.
            batch_shape: the leading axes of everything it will see.
            template: a Jacobian, name -> `[..., K, *shape]`, for methods that remember or randomise
                gradients; its values do not matter. See `jacobian_like`. The state is made on its
                device, without it on the CPU: move the method by `to(device)`.

        Raises:
            ValueError: no task, or no template for a method that needs one.
        """
        if tasks < 1:
            raise ValueError(
                f"tasks={tasks!r} is not allowed: give the number of tasks, at least 1."
            )
        self.tasks, self.batch_shape = tasks, tuple(batch_shape)
        self._device = next(iter(template.values())).device if template else None
        return self

    def reset(self) -> None:
        """Return to the state right after `init`."""
        for name, start in self._starts.items():
            self.get_buffer(name).fill_(start)

    def draw(self, generators: Sequence[torch.Generator]) -> Tensor | None:
        """Random numbers for one call, one generator per leading element; None for methods that
        need none.
        """
        return None

    def after_step(self, losses: Tensor) -> None:
        """Tell the method the losses `[..., K]` of the same batch after the optimiser's step."""

    @staticmethod
    def _positive(losses: Tensor) -> Tensor:
        """The losses in float64, all NaN for an element of the leading axes with one that is not
        positive.
        """
        losses = losses.detach().double()
        return torch.where((losses > 0).all(-1, keepdim=True), losses, torch.nan)

    # ---- for methods with state or randomness ----

    def _remember(
        self,
        name: str,
        shape: Sequence[int],
        start: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """Keep a tensor of this shape between calls, filled with `start` by `init` and `reset`."""
        self.register_buffer(
            name, torch.full(tuple(shape), start, dtype=dtype, device=self._device)
        )
        self._starts[name] = start

    def _expect(self, shape: torch.Size) -> None:
        """Refuse losses or leading axes and tasks of another shape than `init` was told.

        Raises:
            ValueError: not initialised, or another shape.
        """
        if self.tasks is None:
            raise ValueError(
                f"{self.name} remembers or draws: call its init(tasks={shape[-1]}) once before its "
                "use."
            )
        if tuple(shape) != (*self.batch_shape, self.tasks):
            raise ValueError(
                f"{self.name} was made by init for losses of shape "
                f"{(*self.batch_shape, self.tasks)} but got {tuple(shape)}: call init again for "
                "another number of tasks or leading axes."
            )

    def _stack_draws(
        self, generators: Sequence[torch.Generator], one: Callable[[torch.Generator], Tensor]
    ) -> Tensor:
        """`one(generator)` for each leading element, as one tensor `[..., *]`.

        Raises:
            ValueError: not initialised, or not one generator per leading element.
        """
        if self.tasks is None:
            raise ValueError(
                f"{self.name} draws numbers: call its init(tasks=K) once before its use."
            )
        if len(generators) != math.prod(self.batch_shape):
            raise ValueError(
                f"{self.name} was made by init for leading axes {self.batch_shape}, which takes "
                f"{math.prod(self.batch_shape)} generators, but got {len(generators)}."
            )
        drawn = torch.stack([one(generator) for generator in generators])
        return drawn.reshape(*self.batch_shape, *drawn.shape[1:])

    def _drawn(self, noise: Tensor | None) -> Tensor:
        """`noise`, or the reason why it is needed.

        Raises:
            ValueError: there is none.
        """
        if noise is None:
            raise ValueError(
                f"{self.name} is random: make one generator = torch.Generator() for all calls, and "
                "pass noise=method.draw([generator])."
            )
        return noise


class LossWeighting(Method):
    """A method that weights losses by looking at losses."""

    def forward(self, losses: Tensor, noise: Tensor | None = None) -> Weights:
        """Weights `[..., K]` for losses `[..., K]`; `noise` is what `draw` returned."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward.")

    if TYPE_CHECKING:  # nn.Module types calls as Any

        def __call__(self, losses: Tensor, noise: Tensor | None = None) -> Weights: ...  # noqa: D102


class GramianWeighting(Method):
    """A method that weights gradients by looking at their inner products."""

    def forward(
        self, gramian: Tensor, losses: Tensor | None = None, noise: Tensor | None = None
    ) -> Weights:
        """Weights `[..., K]` for a Gramian `[..., K, K]`; `noise` is what `draw` returned."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward.")

    @staticmethod
    def _answer(gramian: Tensor, weights: Tensor, **diagnostics: Tensor) -> Weights:
        """Weights in the Gramian's dtype (float32 for half precision), and `min_progress`, the
        smallest `g_iᵀd`.
        """
        progress = (gramian.to(weights.dtype) @ weights[..., None])[..., 0]
        answer = weights.to(torch.promote_types(gramian.dtype, torch.float32))
        return Weights(answer, {"min_progress": progress.amin(-1), **diagnostics})

    if TYPE_CHECKING:

        def __call__(  # noqa: D102
            self, gramian: Tensor, losses: Tensor | None = None, noise: Tensor | None = None
        ) -> Weights: ...


class JacobianAggregation(Method):
    """A method that needs the task gradients coordinate by coordinate."""

    def forward(
        self,
        jacobian: Mapping[str, Tensor],
        losses: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Aggregate:
        """One direction for a Jacobian, name -> `[..., K, *shape]`; `noise` is what `draw`
        returned.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward.")

    if TYPE_CHECKING:

        def __call__(  # noqa: D102
            self,
            jacobian: Mapping[str, Tensor],
            losses: Tensor | None = None,
            noise: Tensor | None = None,
        ) -> Aggregate: ...
