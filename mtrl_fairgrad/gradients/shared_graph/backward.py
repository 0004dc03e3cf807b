"""`backward` and `Accumulator`: from K losses of one graph to `.grad`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from mtrl_fairgrad.gradients.conventions import PLAIN, Convention
from mtrl_fairgrad.gradients.per_task import Tensors
from mtrl_fairgrad.gradients.shared_graph.distributed import Group, Processes
from mtrl_fairgrad.gradients.shared_graph.features import cut, pull_back
from mtrl_fairgrad.gradients.shared_graph.grad_writer import Destination
from mtrl_fairgrad.gradients.shared_graph.jacobian import Rows
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
    """Combine K task losses of one graph and add the result to `.grad`, in place of
    `sum(losses).backward()`.

    Args:
        losses: the K scalar task losses, best as a sequence: a pass then runs through its own
            task's head only, while from a vector `[K]` it runs through all of them. The graph is
            freed, as by `Tensor.backward`.
        method: for example `FairGrad(alpha=2)`. One with state or randomness needs `method.init(K,
            template=jacobian_like(parameters, K))` before, with the parameters given as `shared`
            (or with the representation). If `method.looks_after_step`, call
            `method.after_step(losses)` after every optimiser step with the losses `[K]` of the same
            batch, computed anew (with several processes, their mean).
        shared: the parameters all tasks use. Their `.grad` receives the combined direction; a
            parameter that some task does not reach counts as a zero gradient for that task.
        own: parameters that belong to one task each (heads). Their `.grad` receives their task's
            gradient, plain or weighted as the convention says.
        noise: for random methods, what `method.draw` returned, or the generator to draw it from.
            With several processes the first one's serves all.
        representation: a tensor or tensors through which all shared parameters act on the losses,
            such as the encoder's output: gradients are combined there, and one pass takes the
            direction on to `shared`. Another direction than from the parameters' own gradients,
            except for loss weightings, which do not need it.
        scaler: of mixed precision. The losses are given unscaled; `scaler.step(optimizer)` and
            `scaler.update()` follow as ever, also after `scaler.unscale_` and clipping.
        process_group: of processes with equal parts of a batch; `"default"` is the default group of
            `torch.distributed` if that is initialised, None this process alone. A
            `DistributedDataParallel` must run its forward pass in `no_sync()` (or be left aside for
            its `.module`), since its hooks do not see these passes.
        convention: weighting of own gradients, scaling and clipping; see
            `mtrl_fairgrad.gradients.conventions`.
        tasks_per_pass: how many tasks' gradients one backward pass computes: 1 for a loop over
            tasks, n for passes of n tasks each, see
            `mtrl_fairgrad.gradients.shared_graph.backward_passes`. By default 1 on CPU and at a
            representation; on CUDA as many as fit for sure into the memory that is free at the
            time, and a loop, with a warning, where that fails. Give a number where runs must agree
            to the last bit. Loss weightings need one pass anyhow.

    Returns:
        The method's diagnostics, with `weights` `[K]` and `gramian` `[K, K]` (of the
        representation, if there is one) where the method has them. With a scaler also `skipped`,
        whether something overflowed: then every `.grad` is NaN, so that the scaler skips the step,
            and the method was not asked and is as it was. (It was asked if only a
        pass after it overflowed: that of a loss weighting, or the one from a representation.)

    Raises:
        ValueError: losses that are no K scalars with a graph; a loss that is not positive, for a
            method that needs positive ones; no shared parameter that requires a gradient; a
            representation that `cut` refuses; or what the method refuses. Neither `.grad` nor the
            method's state has changed then.
        TypeError: not a method.
        RuntimeError: `tasks_per_pass` tasks cannot share a pass; `.grad` and the method's state
            have not changed.

    Cost: one backward pass for loss weightings (and plain own gradients a second one, through the
    heads), for the others K passes or the same work in fewer; the direction is a sum over the rows
    of the Jacobian then, no further pass. Memory: K gradients of `shared`, and those of one pass.
    With a representation, K passes through the heads and one through the encoder, and K gradients
    of the representation.
    """
    check_method(method)
    tasks_per_pass = _checked(tasks_per_pass)
    to = Destination.of(shared, own, scaler, Processes(process_group), convention)
    scalars = _scalars(losses)
    at = to.shared if representation is None else cut(representation, scalars, to.shared)
    if isinstance(method, LossWeighting):
        return _weigh(scalars, method, noise, to)
    innermost = _innermost(method)
    if representation is not None and isinstance(innermost, AveragingAggregation):
        raise ValueError(
            f"{innermost.name} averages gradients over batches, but a representation is of other "
            "samples in each: leave representation out, or choose another method."
        )
    if (
        representation is not None
        and to.processes.size > 1
        and isinstance(method, JacobianAggregation)
    ):
        raise ValueError(
            f"{method.name} looks at every coordinate, but a representation is spread over the "
            "processes: leave representation out, or choose a method that looks at the Gramian."
        )
    rows = Rows.none(len(scalars), at, to)
    if representation is not None and tasks_per_pass is None:
        tasks_per_pass = (
            1  # between it and the losses there are heads, which have nothing in common
        )
    rows.add(scalars, at, to, tasks_per_pass, retain_graph=representation is not None)
    return _combine(rows, method, noise, to, None if representation is None else at)


class Accumulator:
    """Adds up the task gradients of several micro-batches and combines them once, as if of one big
    batch.

        accumulator = Accumulator(shared=encoder.parameters(), own=heads.parameters())
        for batch in loader:
            optimizer.zero_grad()
            for part in batch.chunk(n):
                accumulator.add([loss / n for loss in losses(part)])
            accumulator.backward(method)
            optimizer.step()

    Losses add up: divide them by the number of micro-batches for their mean. Arguments are those of
    `backward`.

    Cost: K backward passes (or the same work in fewer) for every micro-batch, for loss weightings
    too, because they see the sum of the losses; memory as of `backward`, whatever the number of
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
        self._tasks_per_pass = _checked(tasks_per_pass)
        self._to = Destination.of(shared, own, scaler, Processes(process_group), convention)
        self._rows: Rows | None = None

    def add(self, losses: Losses) -> None:
        """Add the gradients of one micro-batch's K losses; its graph is freed.

        Raises:
            ValueError: losses that are no K scalars with a graph, or another K than before.
            RuntimeError: a pass failed, as of `backward`; what was added is gone, since it may hold
                half of the tasks.
        """
        scalars = _scalars(losses)
        rows = self._rows or Rows.none(len(scalars), self._to.shared, self._to)
        if len(scalars) != len(rows.losses):
            raise ValueError(
                f"add got {len(scalars)} losses after {len(rows.losses)}: give one for every task."
            )
        self._rows = None
        rows.add(scalars, self._to.shared, self._to, self._tasks_per_pass)
        self._rows = rows

    def backward(self, method: Method, noise: Noise = None) -> Tensors:
        """Combine what was added, add the result to `.grad` and begin anew; returns and raises as
        `backward` does.

        Raises:
            ValueError: also if nothing was added. What was added is kept whenever this raises.
        """
        if self._rows is None:
            raise ValueError("nothing was added: call add(losses) for every micro-batch first.")
        check_method(method)
        diagnostics = _combine(self._rows, method, noise, self._to)
        self._rows = None
        return diagnostics


def _combine(
    rows: Rows,
    method: Method,
    noise: Noise,
    to: Destination,
    representation: list[Tensor] | None = None,
) -> Tensors:
    """Ask the method for a direction from the rows, which are at the representation if there is
    one, and write it.
    """
    losses = to.processes.mean(rows.losses)
    _require_positive(method, losses)
    if to.overflowed([losses, *rows.jacobian.values(), *rows.own.values()]):
        return to.skip()
    # A process's representation is of its own samples: some columns of the Jacobian. Its parameters
    # are everyone's.
    for row in rows.jacobian.values():
        if representation is None:
            to.processes.mean_(row)
        elif to.processes.size > 1:
            row /= to.processes.size
    noise = _draw(method, noise, losses, to)
    with torch.autocast(losses.device.type, enabled=False):
        observed = method.observe(losses, rows.jacobian, batch_dims=0)
        if representation is not None and isinstance(method, GramianWeighting):
            observed = to.processes.sum(observed)
        result = method(observed, **method.accepted(losses=losses, noise=noise))
        direction, diagnostics = method.direction(result, observed, rows.jacobian)
    if representation is not None:
        direction = pull_back(representation, direction, rows.jacobian, to)
    own_weights = to.convention.own_weights(method, diagnostics)
    own = [to.processes.mean(gradient) for gradient in rows.own_sums(to.own, own_weights)]
    return diagnostics | to.write(direction, own, losses)


def _weigh(scalars: list[Tensor], method: LossWeighting, noise: Noise, to: Destination) -> Tensors:
    """What `_combine` does, for a loss weighting: with its weights known, one backward pass does."""
    vector = torch.stack(scalars)
    losses = to.processes.mean(vector.detach())
    _require_positive(method, losses)
    if to.overflowed([losses]):
        return to.skip()
    noise = _draw(method, noise, losses, to)
    with torch.autocast(losses.device.type, enabled=False):
        weights, diagnostics = method(losses, **method.accepted(noise=noise))
    diagnostics = {**diagnostics, "weights": weights}
    own_weights = to.convention.own_weights(method, diagnostics)
    scale = to.scale(losses.device)

    def gradient(
        weights: Tensor | None, parameters: list[Tensor], retain_graph: bool = False
    ) -> list[Tensor]:
        # A task without weight is left out even where its loss is not finite.
        total = (
            vector.sum()
            if weights is None
            else torch.where(weights != 0, weights * vector, 0).sum()
        )
        found = torch.autograd.grad(
            total * scale, parameters, retain_graph=retain_graph, materialize_grads=True
        )
        return [to.processes.mean(part / scale) for part in found]

    if own_weights is weights:
        both = gradient(weights, to.shared + to.own)
        direction, own = both[: len(to.shared)], both[len(to.shared) :]
    else:
        own = gradient(own_weights, to.own, retain_graph=True) if to.own else []
        direction = gradient(weights, to.shared)
    return diagnostics | to.write({str(i): part for i, part in enumerate(direction)}, own, losses)


def _checked(tasks_per_pass: int | None) -> int | None:
    if tasks_per_pass is None:
        return None
    return check_integer("tasks_per_pass", tasks_per_pass, at_least=1, hint="or None")


def _draw(method: Method, noise: Noise, losses: Tensor, to: Destination) -> Tensor | None:
    """The noise, on the losses' device and the same in all processes."""
    drawn = method.draw([noise]) if isinstance(noise, torch.Generator) else noise
    return None if drawn is None else to.processes.first(drawn.to(losses.device))


def _innermost(method: Method) -> Method:
    """The method within the α-fair loss transformation, if there is one."""
    inner = getattr(method, "method", None)
    return _innermost(inner) if isinstance(inner, Method) else method


def _require_positive(method: Method, losses: Tensor) -> None:
    if not method.needs_positive_losses:
        return
    wrong = losses <= method.lowest_loss
    if bool(wrong.any()):
        task = int(wrong.nonzero()[0])
        needed = (
            "positive losses" if method.lowest_loss == 0 else f"losses above {method.lowest_loss:g}"
        )
        raise ValueError(
            f"task {task}'s loss is {losses[task].item():g}: {method.name} needs {needed}; shift "
            "it, or choose another method."
        )


def _scalars(losses: Losses) -> list[Tensor]:
    losses = losses if isinstance(losses, Tensor) else list(losses)
    if isinstance(losses, Tensor) and losses.ndim != 1:
        wrong = losses
    else:
        wrong = next((loss for loss in losses if loss.ndim), None)
    if wrong is not None or not len(losses):
        given = "nothing" if wrong is None else f"shape {tuple(wrong.shape)}"
        raise ValueError(
            f"losses hold {given}: give K scalar task losses, as a vector [K] or a sequence."
        )
    scalars = list(losses)
    if not any(loss.requires_grad for loss in scalars):
        raise ValueError(
            "losses have no gradient: compute them from the parameters without detach or no_grad."
        )
    return scalars
