"""The three kinds of multi-task method and what they share.

A method turns the gradients of K tasks into one update. Its kind says what it looks at:

| kind | sees | costs |
|---|---|---|
| `LossWeighting` | the losses `[..., K]` | one ordinary backward pass |
| `GramianWeighting` | the Gramian `[..., K, K]`, `M_ij = g_iᵀg_j` | one Jacobian |
| `JacobianAggregation` | the task gradients, name -> `[..., K, *shape]` | one Jacobian |

Shapes, here and in the whole package: `K` tasks; `...` any leading axes, including none, each
element of which is an independent problem (a seed, for example). Task `i` is entry `i` of the last
axis of losses, weights and Gramians.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from mtrl_fairgrad.weighting.half_batches import rows_of_halves, whole_gramian
from mtrl_fairgrad.weighting.products import contract, gramian

NOISE_KEY = "noise_states"
"""Entry of `state_dict`: states of the generators of `draw_by_default`, `[N, bytes]` uint8."""
GOLDEN = 0x9E3779B97F4A7C15
"""Odd factor that spreads the seeds of consecutive generators."""


class Weights(NamedTuple):
    """Result of a loss or Gramian weighting."""

    weights: Tensor
    """`[..., K]`: the update is `Σ_i weights_i · g_i`. Never part of an autograd graph."""
    diagnostics: dict[str, Tensor]
    """Quantities to log, each `[...]` or `[..., K]`."""

    def equal_where_unsolved(self) -> Weights:
        """Replace the weights by 1/K where the diagnostic `converged` is False."""
        solved = self.diagnostics.get("converged")
        if solved is None:
            return self
        equal = 1 / self.weights.shape[-1]
        return self._replace(weights=torch.where(solved.unsqueeze(-1), self.weights, equal))


class Aggregate(NamedTuple):
    """A direction of the shared parameters: result of a Jacobian aggregation, or of any kind."""

    direction: dict[str, Tensor]
    """Name -> `[..., *shape]`; the optimiser subtracts it."""
    diagnostics: dict[str, Tensor]
    """Quantities to log, each `[...]` or `[..., K]`."""

    def equal_where_unsolved(self) -> Aggregate:
        """Return the same: a direction cannot be replaced by weights."""
        return self


class Method(nn.Module):
    """Base class of the three kinds; a module, so that its state moves and saves with the model.

    Methods with state or randomness need one call of `init`; others need none. State is updated in
    place, without reading values on the host, and separately for every element of the leading axes,
    which come first in each state tensor (except scalar counters).

    The first argument of `forward` is what the kind sees. A subclass adds `losses` or `noise` as
    optional arguments if it needs them; callers pass what it declares by `accepted`.
    """

    name: ClassVar[str]
    """Registry key, file name, configuration name and command-line word."""
    needs_jacobian: ClassVar[bool] = True
    """Whether the task gradients are needed; otherwise one ordinary backward pass is enough."""
    needs_positive_losses: bool = False
    """Whether losses must be at least `lowest_loss`, which an actor's may not be. The method
    returns NaN for elements of the leading axes with other losses; `backward` raises an error.

    A loss of exactly `lowest_loss` is allowed, as cross-entropy in float32 reaches 0: where the
    formula has a pole there, the method's own epsilon keeps the result finite.
    """
    lowest_loss: float | Sequence[float] = 0.0
    """Smallest allowed loss, or one for each task, for methods that need positive ones."""
    looks_after_step: bool = False
    """Whether `after_step` must be called after every optimiser step."""
    _optional: ClassVar[frozenset[str]] = frozenset(("losses", "noise"))
    """Optional arguments of `forward`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" not in vars(cls):
            return
        optional = list(inspect.signature(cls.forward).parameters.values())[2:]
        names = {each.name for each in optional if each.kind is not inspect.Parameter.VAR_KEYWORD}
        if len(names) < len(optional):  # a subclass that passes its keywords on to its parent
            names |= cls._optional  # still the parent's
        cls._optional = frozenset(names)

    def __init__(self) -> None:
        super().__init__()
        self.tasks: int | None = None
        """K; None before `init`."""
        self.batch_shape: tuple[int, ...] = ()
        """Shape of the leading axes; `()` before `init`."""
        self._initial_values: dict[str, float] = {}
        self._device: torch.device | None = None
        self._noise_states: list[Tensor] = []

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Set the sizes and create the initial state; optional for methods without state or noise.

        Args:
            tasks: K.
            batch_shape: the leading axes of all later inputs.
            template: a Jacobian, name -> `[..., K, *shape]`, for methods that store or randomise
                gradients; its values are ignored. See `jacobian_like`. The state is created on its
                device, without a template on the CPU: move the method by `to(device)`.

        Raises:
            ValueError: `tasks` < 1, or no template for a method that needs one.
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
        for name, value in self._initial_values.items():
            self.get_buffer(name).fill_(value)
        self._noise_states = []

    def draw(self, generators: Sequence[torch.Generator]) -> Tensor | None:
        """Draw the `noise` of one call, with one generator per leading element.

        Returns:
            None for methods without randomness.
        """
        return None

    def init_once(self, losses: Tensor, template: Mapping[str, Tensor]) -> None:
        """Call `init` unless it was called before; arguments as in `prepare`."""
        if self.tasks is None:
            *batch_shape, tasks = losses.shape
            self.init(tasks, tuple(batch_shape), template)
            self.tasks = tasks  # also where an own init does not call its parent's

    def prepare(
        self, losses: Tensor, template: Mapping[str, Tensor], noise: Tensor | None
    ) -> Tensor | None:
        """Call `init` unless it was called before, and return the noise of this call.

        Args:
            losses: `[..., K]`, of which only shape and device matter.
            template: a Jacobian for `init`, not used later.
            noise: what `draw` returned; None for `draw_by_default`.
        """
        self.init_once(losses, template)
        if noise is not None or type(self).draw is Method.draw:
            return noise
        self._check_shape(losses.shape)
        return self.draw_by_default(losses.device)

    def draw_by_default(self, device: torch.device) -> Tensor | None:
        """Draw the `noise` of one call from generators of the method itself.

        There is one for each leading element, seeded once by `torch.initial_seed()` and the
        element's index: `torch.manual_seed` decides the numbers, but is not changed by them. The
        generators' states are part of `state_dict` and forgotten by `reset`.

        Args:
            device: where to draw; another type of device draws other numbers.

        Returns:
            None for methods without randomness.

        Raises:
            ValueError: not initialised.
        """
        if type(self).draw is Method.draw:
            return None
        generators = [
            torch.Generator(device).manual_seed((torch.initial_seed() + index * GOLDEN) % 2**64)
            for index in range(math.prod(self.batch_shape))
        ]
        if [len(state) for state in self._noise_states] == [
            len(generator.get_state()) for generator in generators
        ]:  # else the first call, or on another type of device
            for generator, state in zip(generators, self._noise_states, strict=True):
                generator.set_state(state)
        drawn = self.draw(generators)
        if drawn is not None:
            self._noise_states = [generator.get_state() for generator in generators]
        return drawn

    def after_step(self, losses: Tensor) -> None:
        """Receive the losses `[..., K]` of the same batch after the optimiser step."""

    # ---- how `combine` and `backward` use a method of any kind ----

    @property
    def splits_batch(self) -> bool:
        """Whether the Jacobian has two rows for each task, the gradients of the halves of its
        batch: `[..., 2K, *shape]`, a task's rows behind one another; see `half_batches`.
        """
        return False

    def accepted(self, **inputs: Tensor | None) -> dict[str, Tensor | None]:
        """Select those of `losses` and `noise` that `forward` declares."""
        return {name: value for name, value in inputs.items() if name in self._optional}

    def observe(self, losses: Tensor, jacobian: Mapping[str, Tensor], batch_dims: int) -> Any:
        """Return the first argument of `forward`.

        Args:
            losses: `[*batch, K]`.
            jacobian: name -> `[*batch, K, *shape]`.
            batch_dims: number of leading axes.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define observe.")

    def direction(self, result: Any, observed: Any, jacobian: Mapping[str, Tensor]) -> Aggregate:
        """Return the direction of the shared parameters and all diagnostics.

        Args:
            result: what `forward` returned.
            observed: what `observe` returned.
            jacobian: name -> `[*batch, K, *shape]`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define direction.")

    # ---- for methods with state or randomness ----

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        module: Any = super()
        module._save_to_state_dict(destination, prefix, keep_vars)
        if self._noise_states:
            destination[prefix + NOISE_KEY] = torch.stack(self._noise_states)

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Any, prefix: str, *others: Any
    ) -> None:
        states = state_dict.pop(prefix + NOISE_KEY, None)
        self._noise_states = [] if states is None else list(states.cpu())
        module: Any = super()
        module._load_from_state_dict(state_dict, prefix, *others)

    def _add_state(
        self,
        name: str,
        shape: Sequence[int],
        value: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """Create a buffer that `init` and `reset` fill with `value`."""
        self.register_buffer(
            name, torch.full(tuple(shape), value, dtype=dtype, device=self._device)
        )
        self._initial_values[name] = value

    def _check_shape(self, shape: torch.Size) -> None:
        """Check that losses have the shape `[..., K]` given to `init`.

        Raises:
            ValueError: not initialised, or the shape differs.
        """
        if self.tasks is None:
            raise ValueError(
                f"{self.name} has state or random numbers: call init(tasks={shape[-1]}) once "
                "before its first call, unless by backward."
            )
        if tuple(shape) != (*self.batch_shape, self.tasks):
            raise ValueError(
                f"{self.name} was initialised for losses of shape "
                f"{(*self.batch_shape, self.tasks)} but got {tuple(shape)}: call init again for "
                "another number of tasks or other leading axes."
            )

    def _stack_draws(
        self, generators: Sequence[torch.Generator], one: Callable[[torch.Generator], Tensor]
    ) -> Tensor:
        """Stack `one(generator)` of each leading element to a tensor `[..., *]`.

        Raises:
            ValueError: not initialised, or not one generator per leading element.
        """
        if self.tasks is None:
            raise ValueError(
                f"{self.name} draws random numbers: call init(tasks=K) once before its first draw."
            )
        if len(generators) != math.prod(self.batch_shape):
            raise ValueError(
                f"{self.name} was initialised for leading axes {self.batch_shape}, which need "
                f"{math.prod(self.batch_shape)} generators, but got {len(generators)}."
            )
        drawn = torch.stack([one(generator) for generator in generators])
        return drawn.reshape(*self.batch_shape, *drawn.shape[1:])

    def _require_noise(self, noise: Tensor | None) -> Tensor:
        """Return `noise`.

        Raises:
            ValueError: it is None.
        """
        if noise is None:
            raise ValueError(
                f"{self.name} is random: call method.init(tasks=K) once, make one generator = "
                "torch.Generator() for all calls, and pass noise=method.draw([generator])."
            )
        return noise


class LossWeighting(Method):
    """A method that computes weights from the losses: `forward(losses)` -> `Weights`."""

    needs_jacobian = False
    _optional = frozenset(("noise",))
    forward: Callable[..., Weights]

    def observe(self, losses: Tensor, jacobian: Mapping[str, Tensor], batch_dims: int) -> Tensor:
        """Return the losses `[*batch, K]`."""
        return losses

    def direction(
        self, result: Weights, observed: Tensor, jacobian: Mapping[str, Tensor]
    ) -> Aggregate:
        """Return the weighted sum of the gradients, and the `weights` among the diagnostics."""
        diagnostics = {**result.diagnostics, "weights": result.weights}
        return Aggregate(contract(result.weights, jacobian), diagnostics)

    if TYPE_CHECKING:  # nn.Module types calls as Any

        def __call__(self, losses: Tensor, **optional: Tensor | None) -> Weights: ...  # noqa: D102


class GramianWeighting(Method):
    """A method that computes weights from inner products: `forward(gramian)` -> `Weights`."""

    forward: Callable[..., Weights]

    def observe(self, losses: Tensor, jacobian: Mapping[str, Tensor], batch_dims: int) -> Tensor:
        """Return the Gramian of the rows, `[*batch, K, K]`."""
        return gramian(jacobian, batch_dims)

    def direction(
        self, result: Weights, observed: Tensor, jacobian: Mapping[str, Tensor]
    ) -> Aggregate:
        """Return the weighted sum of the gradients; diagnostics gain `weights` and `gramian`.

        The Gramian is that of the whole batches' gradients.
        """
        row_weights = result.weights
        if self.splits_batch:
            row_weights, observed = rows_of_halves(row_weights / 2), whole_gramian(observed)
        diagnostics = {**result.diagnostics, "weights": result.weights, "gramian": observed}
        return Aggregate(contract(row_weights, jacobian), diagnostics)

    if TYPE_CHECKING:

        def __call__(self, gramian: Tensor, **optional: Tensor | None) -> Weights: ...  # noqa: D102


def weights_with_progress(gramian: Tensor, weights: Tensor, **diagnostics: Tensor) -> Weights:
    """Round weights to the Gramian's dtype (float32 for half precision), with diagnostics.

    Adds `min_progress`, the smallest `g_iᵀd`, to the `diagnostics`.
    """
    progress = (gramian.to(weights.dtype) @ weights[..., None])[..., 0]
    rounded = weights.to(torch.promote_types(gramian.dtype, torch.float32))
    return Weights(rounded, {"min_progress": progress.amin(-1), **diagnostics})


class JacobianAggregation(Method):
    """A method that needs every gradient coordinate: `forward(jacobian)` -> `Aggregate`."""

    forward: Callable[..., Aggregate]

    def observe(
        self, losses: Tensor, jacobian: Mapping[str, Tensor], batch_dims: int
    ) -> Mapping[str, Tensor]:
        """Return the Jacobian, name -> `[*batch, K, *shape]`."""
        return jacobian

    def direction(
        self, result: Aggregate, observed: Any, jacobian: Mapping[str, Tensor]
    ) -> Aggregate:
        """Return the result as it is."""
        return result

    if TYPE_CHECKING:

        def __call__(  # noqa: D102
            self, jacobian: Mapping[str, Tensor], **optional: Tensor | None
        ) -> Aggregate: ...


def unwrapped(method: Method) -> Method:
    """Return the method inside a wrapper such as `alpha_fair`'s, or the method itself."""
    inner = getattr(method, "method", None)
    return unwrapped(inner) if isinstance(inner, Method) else method


def check_method(method: object) -> None:
    """Check that an object is a method of one of the three kinds.

    Raises:
        TypeError: it is not.
    """
    if isinstance(method, str | type):
        name = method if isinstance(method, str) else method.__name__
        call = f"make_method({name!r})" if isinstance(method, str) else f"{name}()"
        raise TypeError(
            f"method is the {'name' if isinstance(method, str) else 'class'} {name}: make the "
            f"method once, before the training loop, by {call}."
        )
    if not isinstance(method, LossWeighting | GramianWeighting | JacobianAggregation):
        raise TypeError(
            f"{type(method).__name__} is not a gradient-combination method: give a LossWeighting, "
            "a GramianWeighting or a JacobianAggregation, such as mtrl_fairgrad.FairGrad(alpha=2)."
        )


SMALLEST_DIVISOR = 1e-8
"""Losses below this count as this where a published method without an epsilon of its own divides by
them or takes their logarithm. The methods whose code has an epsilon use that one, mostly this
number too."""


def nonnegative_or_nan(losses: Tensor) -> Tensor:
    """Return losses `[..., K]` in float64, NaN for elements of the leading axes with a loss < 0."""
    losses = losses.detach().double()
    return torch.where((losses >= 0).all(-1, keepdim=True), losses, torch.nan)
