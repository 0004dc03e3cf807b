"""`backward` and `Accumulator`: combine K losses of one graph into `.grad`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from mtrl_fairgrad.gradients.conventions import PLAIN, Convention
from mtrl_fairgrad.gradients.per_task import Tensors
from mtrl_fairgrad.gradients.shared_graph.distributed import Group, Processes
from mtrl_fairgrad.gradients.shared_graph.features import check_representation, propagate_direction
from mtrl_fairgrad.gradients.shared_graph.grad_writer import GradWriter
from mtrl_fairgrad.gradients.shared_graph.jacobian import GradientRows
from mtrl_fairgrad.utils.validation import check_integer
from mtrl_fairgrad.weighting import GramianWeighting, JacobianAggregation, LossWeighting, Method
from mtrl_fairgrad.weighting.base import check_method
from mtrl_fairgrad.weighting.template import AveragingAggregation

Losses = Tensor | Sequence[Tensor]
Noise = Tensor | torch.Generator | None


def backward(
    losses: Losses,
    method: Method,
    *,
    shared: Iterable[Tensor],
    own: Iterable[Tensor] = (),
    noise: Noise = None,
    representation: Tensor | Sequence[Tensor] | None = None,
    scaler: GradScaler | None = None,
    process_group: Group = "default",
    convention: Convention = PLAIN,
    tasks_per_pass: int | None = None,
) -> Tensors:
    """Combine K task losses of one graph and add the result to `.grad`.

    Replaces `sum(losses).backward()`.

    Args:
        losses: the K scalar task losses, preferably as a sequence: a pass then runs through its
            own task's head only; from a vector `[K]` it runs through all heads. The graph is freed,
            as by `Tensor.backward`.
        method: for example `FairGrad(alpha=2)`. One with state or randomness needs
            `method.init(K, template=jacobian_like(parameters, K))` before, with the parameters
            given as `shared` (or the representation). If `method.looks_after_step`, call
            `method.after_step(losses)` after every optimiser step with the losses `[K]` of the same
            batch, recomputed (with several processes, their mean).
        shared: the parameters that all tasks use. Their `.grad` receives the combined direction; a
            task that does not depend on a parameter has a zero gradient there.
        own: parameters that belong to one task each (heads). Their `.grad` receives their task's
            gradient, plain or weighted as the convention says.
        noise: for random methods, the result of `method.draw`, or a generator to draw it from.
            Several processes use the noise of the first one.
        representation: a tensor or tensors through which all shared parameters act on the losses,
            such as the encoder's output: gradients are combined there, and one pass propagates the
            direction to `shared`. The result differs from combining the parameters' gradients,
            except for loss weightings, which do not need it.
        scaler: the scaler of mixed precision. Give unscaled losses; call `scaler.step(optimizer)`
            and `scaler.update()` as usual, also after `scaler.unscale_` and clipping.
        process_group: processes with equal parts of a batch; `"default"` is the default group of
            `torch.distributed` if it is initialised, None this process only. A
            `DistributedDataParallel` must run its forward pass in `no_sync()` (or use its
            `.module`), since its hooks do not see these passes.
        convention: weighting of own gradients, scaling and clipping; see
            `mtrl_fairgrad.gradients.conventions`.
        tasks_per_pass: number of tasks whose gradients one backward pass computes: 1 for a loop
            over tasks, n for passes of n tasks each, see
            `mtrl_fairgrad.gradients.shared_graph.backward_passes`. By default 1 on CPU and at a
            representation; on CUDA as many as certainly fit into the free memory, and a loop with a
            warning if that fails. Give a number if runs must agree bit for bit. Loss weightings
            always need one pass.

    Returns:
        The method's diagnostics, with `weights` `[K]` and `gramian` `[K, K]` (of the
        representation, if there is one) where the method has them. With a scaler also `skipped`,
        whether something overflowed: then every `.grad` is NaN, so that the scaler skips the step,
        and the method was not called and its state has not changed. (It was called if only a later
        pass overflowed: that of a loss weighting, or the one from a representation.)

    Raises:
        ValueError: losses that are not K scalars with a graph; a loss below the `lowest_loss` of a
            method that needs positive ones; no shared parameter that requires a gradient; a
            representation that `check_representation` rejects; or an input that the method rejects.
            Neither `.grad` nor the method's state has changed then.
        TypeError: `method` is not a method.
        RuntimeError: `tasks_per_pass` tasks cannot share a pass; `.grad` and the method's state
            have not changed.

    Cost: one backward pass for loss weightings (and a second one through the heads for plain own
    gradients). K passes or the same work in fewer passes for the other kinds, whose direction is a
    sum over the rows of the Jacobian without another pass. Memory: K gradients of `shared`, and
    those of one pass. With a representation: K passes through the heads and one through the
    encoder, and K gradients of the representation.
    """
    check_method(method)
    tasks_per_pass = _check_tasks_per_pass(tasks_per_pass)
    writer = GradWriter.create(shared, own, scaler, Processes(process_group), convention)
    scalars = _scalars(losses)
    at = (
        writer.shared
        if representation is None
        else check_representation(representation, scalars, writer.shared)
    )
    if isinstance(method, LossWeighting):
        return _backward_with_weights(scalars, method, noise, writer)
    unwrapped = _unwrapped(method)
    if representation is not None and isinstance(unwrapped, AveragingAggregation):
        raise ValueError(
            f"{unwrapped.name} averages gradients over batches, but every batch has another "
            "representation: leave representation out, or choose another method."
        )
    if (
        representation is not None
        and writer.processes.size > 1
        and isinstance(method, JacobianAggregation)
    ):
        raise ValueError(
            f"{method.name} needs every coordinate, but a representation is distributed over the "
            "processes: leave representation out, or choose a method that needs the Gramian only."
        )
    rows = GradientRows.zeros(len(scalars), at, writer)
    if representation is not None and tasks_per_pass is None:
        tasks_per_pass = 1  # the heads after the representation cannot be batched usefully
    rows.add(scalars, at, writer, tasks_per_pass, retain_graph=representation is not None)
    return _combine(rows, method, noise, writer, None if representation is None else at)


class Accumulator:
    """Sum task gradients of several micro-batches and combine them once, as for one big batch.

        accumulator = Accumulator(shared=encoder.parameters(), own=heads.parameters())
        for batch in loader:
            optimizer.zero_grad()
            for part in batch.chunk(n):
                accumulator.add([loss / n for loss in losses(part)])
            accumulator.backward(method)
            optimizer.step()

    Losses are summed: divide them by the number of micro-batches for their mean. The arguments are
    those of `backward`.

    Cost: K backward passes (or the same work in fewer) for every micro-batch, also for loss
    weightings, because they see the sum of the losses; memory as for `backward`, for any number of
    micro-batches.
    """

    def __init__(
        self,
        *,
        shared: Iterable[Tensor],
        own: Iterable[Tensor] = (),
        scaler: GradScaler | None = None,
        process_group: Group = "default",
        convention: Convention = PLAIN,
        tasks_per_pass: int | None = None,
    ) -> None:
        self._tasks_per_pass = _check_tasks_per_pass(tasks_per_pass)
        self._writer = GradWriter.create(shared, own, scaler, Processes(process_group), convention)
        self._rows: GradientRows | None = None

    def add(self, losses: Losses) -> None:
        """Add the gradients of one micro-batch's K losses; its graph is freed.

        Raises:
            ValueError: losses that are not K scalars with a graph, or another K than before.
            RuntimeError: a pass failed, as in `backward`. The sum is discarded, because it may
                contain only some of the tasks.
        """
        scalars = _scalars(losses)
        rows = self._rows or GradientRows.zeros(len(scalars), self._writer.shared, self._writer)
        if len(scalars) != len(rows.losses):
            raise ValueError(
                f"add got {len(scalars)} losses after {len(rows.losses)}: give one loss per task."
            )
        self._rows = None
        rows.add(scalars, self._writer.shared, self._writer, self._tasks_per_pass)
        self._rows = rows

    def backward(self, method: Method, noise: Noise = None) -> Tensors:
        """Combine the sum, add the result to `.grad` and start a new sum.

        Returns the same as the function `backward`.

        Raises:
            ValueError: nothing was added, or as `backward`. The sum is preserved after any error.
            TypeError, RuntimeError: as `backward`.
        """
        if self._rows is None:
            raise ValueError("no losses were added: call add(losses) for every micro-batch first.")
        check_method(method)
        diagnostics = _combine(self._rows, method, noise, self._writer)
        self._rows = None
        return diagnostics


def _combine(
    rows: GradientRows,
    method: Method,
    noise: Noise,
    writer: GradWriter,
    representation: list[Tensor] | None = None,
) -> Tensors:
    """Combine gradient rows, by shared parameters or by a representation, and write the result."""
    losses = writer.processes.mean(rows.losses)
    _require_positive(method, losses)
    if writer.overflowed([losses, *rows.jacobian.values(), *rows.own.values()]):
        return writer.skip()
    # The parameters are the same in all processes, but a process's representation belongs to its
    # own samples: it is a part of the Jacobian's columns.
    for row in rows.jacobian.values():
        if representation is None:
            writer.processes.mean_(row)
        elif writer.processes.size > 1:
            row /= writer.processes.size
    noise = _draw(method, noise, losses, writer)
    with torch.autocast(losses.device.type, enabled=False):
        observed = method.observe(losses, rows.jacobian, batch_dims=0)
        if representation is not None and isinstance(method, GramianWeighting):
            observed = writer.processes.sum(observed)
        result = method(observed, **method.accepted(losses=losses, noise=noise))
        direction, diagnostics = method.direction(result, observed, rows.jacobian)
    if representation is not None:
        direction = propagate_direction(representation, direction, rows.jacobian, writer)
    own_weights = writer.convention.own_weights(method, diagnostics)
    own = [writer.processes.mean(gradient) for gradient in rows.own_sums(writer.own, own_weights)]
    return diagnostics | writer.write(direction, own, losses)


def _backward_with_weights(
    scalars: list[Tensor], method: LossWeighting, noise: Noise, writer: GradWriter
) -> Tensors:
    """Combine by a loss weighting: one backward pass of the weighted losses, without rows."""
    vector = torch.stack(scalars)
    losses = writer.processes.mean(vector.detach())
    _require_positive(method, losses)
    if writer.overflowed([losses]):
        return writer.skip()
    noise = _draw(method, noise, losses, writer)
    with torch.autocast(losses.device.type, enabled=False):
        weights, diagnostics = method(losses, **method.accepted(noise=noise))
    diagnostics = {**diagnostics, "weights": weights}
    own_weights = writer.convention.own_weights(method, diagnostics)
    scale = writer.scale(losses.device)

    def gradient(
        weights: Tensor | None, parameters: list[Tensor], retain_graph: bool = False
    ) -> list[Tensor]:
        # A task without weight is left out even where its loss is not finite.
        total = (
            vector.sum()
            if weights is None
            else torch.where(weights != 0, weights * vector, 0).sum()
        )
        gradients = torch.autograd.grad(
            total * scale, parameters, retain_graph=retain_graph, materialize_grads=True
        )
        return [writer.processes.mean(part / scale) for part in gradients]

    if own_weights is weights:
        both = gradient(weights, writer.shared + writer.own)
        direction, own = both[: len(writer.shared)], both[len(writer.shared) :]
    else:
        own = gradient(own_weights, writer.own, retain_graph=True) if writer.own else []
        direction = gradient(weights, writer.shared)
    return diagnostics | writer.write(
        {str(i): part for i, part in enumerate(direction)}, own, losses
    )


def _check_tasks_per_pass(tasks_per_pass: int | None) -> int | None:
    if tasks_per_pass is None:
        return None
    return check_integer("tasks_per_pass", tasks_per_pass, at_least=1, hint="or None")


def _draw(method: Method, noise: Noise, losses: Tensor, writer: GradWriter) -> Tensor | None:
    """Return the noise on the losses' device, the same in all processes."""
    drawn = method.draw([noise]) if isinstance(noise, torch.Generator) else noise
    return None if drawn is None else writer.processes.first(drawn.to(losses.device))


def _unwrapped(method: Method) -> Method:
    """Return the method inside the α-fair wrapper, or the method itself."""
    inner = getattr(method, "method", None)
    return _unwrapped(inner) if isinstance(inner, Method) else method


def _require_positive(method: Method, losses: Tensor) -> None:
    if not method.needs_positive_losses:
        return
    lowest = torch.tensor(method.lowest_loss, dtype=losses.dtype, device=losses.device)
    wrong = losses < lowest
    if bool(wrong.any()):
        task = int(wrong.nonzero()[0])
        needed = lowest.expand_as(losses)[task].item()
        raise ValueError(
            f"task {task}'s loss is {losses[task].item():g}: {method.name} needs losses of at "
            f"least {needed:g}; shift it, or choose another method."
        )


def _scalars(losses: Losses) -> list[Tensor]:
    losses = losses if isinstance(losses, Tensor) else list(losses)
    if isinstance(losses, Tensor) and losses.ndim != 1:
        wrong = losses
    else:
        wrong = next((loss for loss in losses if loss.ndim), None)
    if wrong is not None or not len(losses):
        given = "are empty" if wrong is None else f"have shape {tuple(wrong.shape)}"
        raise ValueError(
            f"losses {given}: give K scalar task losses, as a vector [K] or a sequence."
        )
    scalars = list(losses)
    if not any(loss.requires_grad for loss in scalars):
        raise ValueError(
            "losses have no gradient: compute them from the parameters without detach or no_grad."
        )
    return scalars
