"""Per-task gradients of disjoint task data: Jacobian, Gramian and combined direction.

In reinforcement learning each task has its own samples, so a loss written for *one task of one
seed* is lifted by `torch.func` over both axes, and the whole Jacobian `[S, K, ...]` comes out of
one backward pass. For K losses of one forward pass, as in most training loops, see
`mtrl_fairgrad.gradients.shared_graph`.

A Jacobian is a mapping from parameter name to `[..., K, *parameter shape]`. On the CPU it is never
concatenated: its Gramian is a sum over parameters, a direction one contraction per parameter. On a
GPU its entries are views of one tensor (`products.Joined`), and Gramian and direction one product.

Parameters are in two groups. *Shared* parameters are used by every task and receive the combined
direction; *own* parameters (heads, task embeddings) belong to one task and receive that task's
gradient, plain or weighted according to the `Convention`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap  # pyright: ignore[reportPrivateImportUsage, reportUnknownVariableType]
from torch.utils._pytree import tree_map

from mtrl_fairgrad.gradients.conventions import PLAIN, Convention, scale_rows
from mtrl_fairgrad.gradients.graph_capture import CapturedFunction, Compile
from mtrl_fairgrad.gradients.official import resolve_convention
from mtrl_fairgrad.weighting import LossWeighting, Method
from mtrl_fairgrad.weighting.base import check_method
from mtrl_fairgrad.weighting.products import (
    Joined,
    join_rows,
    joinable,
    real_view,
    undo_real_view,
)

Tensors = dict[str, Tensor]
TaskLoss = Callable[..., tuple[Tensor, Any]]
"""`loss(shared, context, own, *inputs) -> (scalar, auxiliary)`, for one task of one seed."""


class CapturedLoss:
    """A task loss that is captured with and without its gradients once per shape, then replayed.

    The loss must be pure, as `graph_capture.CapturedFunction` requires. `task_gradients` and
    `combine` give the same results bit for bit as for the plain loss, unless it is compiled.
    """

    def __init__(self, loss: TaskLoss, compile: Compile = False) -> None:
        self.loss = loss
        self.gradients = CapturedFunction(_all_gradients(loss), compile=compile)
        self.values = CapturedFunction(lift(loss, per_seed=2), differentiable=True)

    def __call__(self, *arguments: Any) -> tuple[Tensor, Any]:
        """Return the loss of one task of one seed, and its auxiliary output."""
        return self.loss(*arguments)


class TaskGradients(NamedTuple):
    """Result of one backward pass over all tasks and seeds."""

    losses: Tensor
    """`[S, K]`."""
    jacobian: Tensors
    """Shared parameters: name -> `[S, K, *shape]`; rows are task gradients."""
    own: Tensors
    """Own parameters: name -> `[S, K, *shape]`."""
    auxiliary: Any
    """Auxiliary output of the loss, each tensor `[S, K, ...]`."""


class Combined(NamedTuple):
    """One combined gradient per seed, ready for an optimiser."""

    losses: Tensor
    """`[S, K]`."""
    direction: Tensors
    """Shared parameters: name -> `[S, *shape]`; the optimiser subtracts it."""
    own: Tensors
    """Own parameters: name -> `[S, K, *shape]`, each task's gradient, plain or weighted according
    to the convention.
    """
    auxiliary: Any
    """Auxiliary output of the loss, each tensor `[S, K, ...]`."""
    diagnostics: Tensors
    """The method's diagnostics: `weights`, FairGrad's `residual`, …, and the `gramian` of a Gramian
    weighting.
    """


def _first_seed(tensor: Tensor) -> Tensor:
    return tensor.squeeze(0)  # whose backward pass, unlike that of indexing, copies nothing


def _add_seed_axis(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(0)


def over_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lift a function of one seed over the seed axis.

    Every argument and result gains a leading `[S]`. Arguments and results may be any nesting of
    dicts and tuples of tensors; the last argument must be a tensor. A single seed is computed
    without the axis, which saves a fifth of the time on CPU.
    """

    def lifted(*args: Any) -> Any:
        if args[-1].shape[0] > 1:
            return vmap(function)(*args)
        first: tuple[Any, ...] = tree_map(_first_seed, args)
        return tree_map(_add_seed_axis, function(*first))

    return lifted


def lift(function: Callable[..., Any], per_seed: int) -> Callable[..., Any]:
    """Lift a function of one task of one seed over the seed axis and the task axis.

    The first `per_seed` arguments of the lifted function carry `[S, ...]` (one value for all tasks
    of a seed), the others `[S, K, ...]`, and so do the results; nesting as in `over_seeds`.
    """

    def over_tasks(*args: Any) -> Any:
        return vmap(function, in_dims=(None,) * per_seed + (0,) * (len(args) - per_seed))(*args)

    return over_seeds(over_tasks)


def task_gradients(
    loss: TaskLoss,
    shared: Tensors,
    *inputs: Tensor | Tensors,
    own: Tensors | None = None,
    context: Any = None,
    halves: bool = False,
) -> TaskGradients:
    """Compute every task's gradient for every seed in one backward pass.

    Args:
        loss: `loss(shared, context, own, *inputs) -> (scalar, auxiliary)` for one task of one seed.
        shared: parameters that all tasks of a seed use, name -> `[S, *shape]`.
        inputs: the tasks' data, at least one: each a tensor `[S, K, ...]` or a mapping of such
            tensors; the last one a tensor.
        own: each task's own parameters, name -> `[S, K, *shape]`; None for none.
        context: anything else that the tasks of a seed share and that is not differentiated, a
            nesting of tensors `[S, ...]`; None is passed to the loss as `{}`.
        halves: give the Jacobian two rows for each task, `[S, 2K, *shape]`, behind one another: the
            gradients of the halves of its batch (`combine` says which inputs have halves).

    Raises:
        ValueError: parameters that are `DTensor`s, or a batch without halves.
    """
    gradients = _gradients_of_halves if halves else _gradients
    return gradients(loss, _loss_arguments(shared, inputs, own, context))


def task_losses(
    loss: TaskLoss,
    shared: Tensors,
    *inputs: Tensor | Tensors,
    own: Tensors | None = None,
    context: Any = None,
) -> Tensor:
    """Compute the losses `[S, K]` alone; arguments as in `task_gradients`."""
    return _values(loss)(*_loss_arguments(shared, inputs, own, context))[0]


def _values(loss: TaskLoss) -> Callable[..., Any]:
    """Return a function of the losses and auxiliary outputs of all tasks and seeds."""
    return loss.values if isinstance(loss, CapturedLoss) else lift(loss, per_seed=2)


def _loss_arguments(
    shared: Tensors, inputs: tuple[Tensor | Tensors, ...], own: Tensors | None, context: Any
) -> tuple[Any, ...]:
    """Return the arguments in the order of the loss, `{}` in place of None.

    Raises:
        ValueError: parameters distributed over processes.
    """
    for name, parameter in (*shared.items(), *(own or {}).items()):
        if hasattr(parameter, "device_mesh"):
            raise ValueError(
                f"parameter {name} is a DTensor, over which no loss can be lifted: give whole "
                "tensors, or write the losses of one graph and call backward."
            )
    return shared, {} if context is None else context, own or {}, *inputs


def _gradients(loss: TaskLoss, arguments: tuple[Any, ...]) -> TaskGradients:
    """Compute task gradients; the arguments are in the order of the loss."""
    gradients = loss.gradients if isinstance(loss, CapturedLoss) else _all_gradients(loss)
    arguments = tree_map(Tensor.detach, arguments)  # they may be nn.Parameters
    with torch.no_grad():  # torch.func differentiates regardless
        (jacobian, own_gradients), (losses, auxiliary) = gradients(*arguments)
    if isinstance(jacobian, Tensor):
        shapes = {name: parameter.shape[1:] for name, parameter in arguments[0].items()}
        jacobian = Joined(jacobian, shapes)
    return TaskGradients(losses, jacobian, own_gradients, auxiliary)


def _all_gradients(loss: TaskLoss) -> Callable[..., Any]:
    """Return a function of the gradients, losses and auxiliary outputs of all tasks and seeds.

    The Jacobian of parameters on one GPU is one tensor `[S, K, N]`, as `join_rows` returns it.
    """
    lifted = lift(grad_and_value(loss, argnums=(0, 2), has_aux=True), per_seed=2)

    def gradients(*arguments: Any) -> Any:
        (jacobian, own), values = lifted(*arguments)
        if joinable(jacobian.values()):
            jacobian = join_rows(list(jacobian.values()))
        return (jacobian, own), values

    return gradients


def _gradients_of_halves(loss: TaskLoss, arguments: tuple[Any, ...]) -> TaskGradients:
    """Compute the gradients of the two halves of each task's batch; arguments as `_gradients`.

    For this pass the halves are tasks of their own. The Jacobian keeps their rows,
    `[S, 2K, *shape]`, a task's behind one another; all else is their mean.
    """
    shared, context, own, *inputs = arguments
    halves = _gradients(loss, (shared, context, _for_halves(own), *map(_split_batch, inputs)))

    def mean(values: Tensor) -> Tensor:
        seeds, rows, *rest = values.shape
        return values.reshape((seeds, rows // 2, 2, *rest)).mean(2)

    return TaskGradients(
        mean(halves.losses),
        halves.jacobian,
        tree_map(mean, halves.own),
        tree_map(mean, halves.auxiliary),
    )


def _split_batch(values: Tensor | Tensors) -> Tensor | Tensors:
    """Return a task's data `[S, K, B, ...]` as its halves' `[S, 2K, B/2, ...]`, a view.

    Mappings and tensors `[S, K]` are repeated: they belong to a task, not to its samples.

    Raises:
        ValueError: an odd B.
    """
    if not isinstance(values, Tensor) or values.ndim == 2:
        return _for_halves(values)
    seeds, tasks, samples, *rest = values.shape
    if samples % 2:
        raise ValueError(
            f"a batch of {samples} samples has no halves, which gramian=half_batches needs: "
            "give an even number."
        )
    return values.reshape((seeds, 2 * tasks, samples // 2, *rest))


def _for_halves(values: Any) -> Any:
    """Repeat each tensor `[S, K, ...]` of a nesting for the two halves, `[S, 2K, ...]`."""

    def twice(each: Tensor) -> Tensor:
        return each.unsqueeze(2).expand(*each.shape[:2], 2, *each.shape[2:]).flatten(1, 2)

    return tree_map(twice, values)


def combine(
    method: Method,
    loss: TaskLoss,
    shared: Tensors,
    *inputs: Tensor | Tensors,
    own: Tensors | None = None,
    context: Any = None,
    noise: Tensor | None = None,
    convention: Convention | str = PLAIN,
    fall_back: bool = False,
) -> Combined:
    """Combine the task gradients of every seed by `method`.

    Costs one ordinary backward pass for loss weightings, one Jacobian for the other kinds. Losses
    are never rejected: a method that needs positive losses returns NaN for seeds with others.

    Args:
        method: combines the tasks of all seeds in one call. The first call calls its `init` unless
            it was called before.
        loss: as in `task_gradients`, like `shared`, `inputs`, `own` and `context`.
        shared: parameters that all tasks of a seed use, name -> `[S, *shape]`. Complex ones count
            as their real and imaginary parts.
        inputs: the tasks' data, `[S, K, ...]`. A method that `splits_batch` computes the gradients
            of halves: tensors of three and more axes are `[S, K, B, ...]` with an even B,
            mappings and `[S, K]` go to both halves whole, and loss and auxiliary outputs must be
            means over the batch.
        own: each task's own parameters, name -> `[S, K, *shape]`.
        context: what the tasks of a seed share and is not differentiated.
        noise: what `method.draw` returned, for random methods; by default
            `method.draw_by_default` draws it, from generators of the method itself.
        convention: how the result becomes gradients, applied to each seed separately; or the name
            of a preset.
        fall_back: give every task the weight 1/K where the method reports by `converged` that it
            did not solve its equation.

    Raises:
        TypeError: `method` is not a gradient-combination method.
        ValueError: the name of the convention is unknown, parameters that are `DTensor`s, or a
            batch without halves.
    """
    check_method(method)
    convention = resolve_convention(convention, method)
    arguments = _loss_arguments(shared, inputs, own, context)
    if isinstance(method, LossWeighting):
        result = _weigh_losses(method, loss, arguments, noise, convention)
    else:
        gradients = _gradients_of_halves if method.splits_batch else _gradients
        losses, jacobian, own_gradients, auxiliary = gradients(loss, arguments)
        if not isinstance(jacobian, Joined):
            jacobian = {name: real_view(rows) for name, rows in jacobian.items()}
        noise = method.prepare(losses, jacobian, noise)
        # Autocast of the caller must not reach these products.
        with torch.autocast(losses.device.type, enabled=False):
            observed = method.observe(losses, jacobian, batch_dims=1)
            answer = method(observed, **method.accepted(losses=losses, noise=noise))
            if fall_back:
                answer = answer.equal_where_unsolved()
            direction, diagnostics = method.direction(answer, observed, jacobian)
        weights = convention.own_weights(method, diagnostics)
        if weights is not None:
            own_gradients = {
                name: scale_rows(rows, weights) for name, rows in own_gradients.items()
            }
        result = Combined(losses, direction, own_gradients, auxiliary, diagnostics)
    tasks = result.losses.shape[-1]
    factor = convention.own_factor(tasks)
    direction = convention.apply(result.direction, tasks, batch_dims=1)
    if not isinstance(direction, Joined):  # whose entries are real
        direction = {n: undo_real_view(direction[n], like) for n, like in shared.items()}
    return result._replace(
        direction=direction,
        own=result.own if factor == 1 else {n: rows * factor for n, rows in result.own.items()},
    )


def _weigh_losses(
    method: LossWeighting,
    loss: TaskLoss,
    arguments: tuple[Any, ...],
    noise: Tensor | None,
    convention: Convention,
) -> Combined:
    """Combine by one backward pass of the weighted losses, without a Jacobian."""
    # Ordinary autograd, not torch.func.grad: a method may keep the losses it sees, so they must be
    # plain tensors.
    with torch.enable_grad():
        shared, context, own, *inputs = arguments
        shared, own = _leaves(shared), _leaves(own)
        losses, auxiliary = _values(loss)(shared, context, own, *inputs)
        known = method.tasks is not None
        template = {} if known else {n: _rows_like(p, losses) for n, p in shared.items()}
        noise = method.prepare(losses.detach(), template, noise)
        answer = method(losses.detach(), **method.accepted(noise=noise))
        # A task without weight is left out even where its loss is not finite.
        total = torch.where(answer.weights != 0, answer.weights * losses, 0).sum()
        gradients = torch.autograd.grad(
            total, [*shared.values(), *own.values()], materialize_grads=True
        )
    losses, auxiliary = losses.detach(), tree_map(Tensor.detach, auxiliary)
    direction = dict(zip(shared, map(real_view, gradients), strict=False))
    own_gradients = dict(zip(own, gradients[len(shared) :], strict=True))
    diagnostics = {**answer.diagnostics, "weights": answer.weights}
    if convention.own == "plain":
        # Divide by the weight again; the gradient of a task without weight is already 0.
        wanted = convention.own_weights(method, diagnostics)
        assert wanted is not None
        factor = wanted / torch.where(answer.weights == 0, 1, answer.weights.double())
        own_gradients = {name: scale_rows(rows, factor) for name, rows in own_gradients.items()}
    return Combined(losses, direction, own_gradients, auxiliary, diagnostics)


def _rows_like(parameter: Tensor, losses: Tensor) -> Tensor:
    """Return rows `[S, K, *shape]` like those of a Jacobian, without own memory."""
    return parameter.detach().unsqueeze(1).expand(*losses.shape, *parameter.shape[1:])


def _leaves(parameters: Tensors) -> Tensors:
    return {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
