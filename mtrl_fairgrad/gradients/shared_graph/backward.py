"""`backward` and `Accumulator`: combine K losses of one graph into `.grad`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from mtrl_fairgrad.gradients.conventions import PLAIN, Convention
from mtrl_fairgrad.gradients.official import check_convention, resolve_convention
from mtrl_fairgrad.gradients.per_task import Tensors
from mtrl_fairgrad.gradients.shared_graph.combination import (
    Combination,
    Noise,
    check_representation_allowed,
    check_shards_allowed,
)
from mtrl_fairgrad.gradients.shared_graph.distributed import Group, Processes
from mtrl_fairgrad.gradients.shared_graph.features import check_representation
from mtrl_fairgrad.gradients.shared_graph.grad_writer import GradWriter
from mtrl_fairgrad.gradients.shared_graph.graph import check_leaves
from mtrl_fairgrad.gradients.shared_graph.jacobian import GradientRows
from mtrl_fairgrad.gradients.shared_graph.losses import Losses, scalar_losses
from mtrl_fairgrad.gradients.shared_graph.parameters import Parameters
from mtrl_fairgrad.gradients.shared_graph.sharded import leaves_of
from mtrl_fairgrad.utils.validation import check_integer
from mtrl_fairgrad.weighting import LossWeighting, Method
from mtrl_fairgrad.weighting.base import check_method
from mtrl_fairgrad.weighting.half_batches import check_whole_batch


def backward(
    losses: Losses,
    method: Method,
    *,
    shared: Parameters,
    own: Parameters = (),
    noise: Noise = None,
    representation: Tensor | Sequence[Tensor] | None = None,
    scaler: GradScaler | None = None,
    process_group: Group = "default",
    convention: Convention | str = PLAIN,
    tasks_per_pass: int | None = None,
    retain_graph: bool = False,
    fall_back: bool = False,
) -> Tensors:
    """Combine K task losses of one graph and add the result to `.grad`.

    Replaces `sum(losses).backward()`.

    Args:
        losses: the K scalar task losses, preferably as a sequence or as the values of a mapping: a
            pass then runs through its own task's head only; from a vector `[K]` it runs through all
            heads. A number or a tensor without graph is a loss with zero gradient.
        method: for example `FairGrad(alpha=2)`, the same object in every step. If
            `method.looks_after_step`, call `method.after_step(losses)` after every optimiser step
            with the losses `[K]` of the same batch, recomputed (with several processes, their
            mean). The first call calls `method.init(K, template=...)` unless it was called before,
            which `load_state_dict` needs.
        shared: the parameters that all tasks use, `named_parameters()` of them, or modules. Their
            `.grad` receives the combined direction; a task that does not depend on a parameter has
            a zero gradient there. Complex parameters count as their real and imaginary parts.
        own: parameters that belong to one task each (heads). Their `.grad` receives their task's
            gradient, plain or weighted as the convention says.
        noise: for random methods, the result of `method.draw`, or a generator to draw it from. By
            default the method draws from a generator of its own, which is a part of its
            `state_dict` and begins with `torch.initial_seed()`, as set by `torch.manual_seed`.
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
            Modules under `fully_shard` need the processes of their mesh; see
            `mtrl_fairgrad.gradients.shared_graph.sharded`.
        convention: weighting of own gradients, scaling and clipping, or the name of a preset; see
            `mtrl_fairgrad.gradients.conventions`.
        tasks_per_pass: number of tasks whose gradients one backward pass computes: 1 for a loop
            over tasks, n for passes of n tasks each, see
            `mtrl_fairgrad.gradients.shared_graph.backward_passes`. By default 1 on CPU and at a
            representation; on CUDA as many as certainly fit into the free memory, and a loop with a
            warning if that fails. Give a number if runs must agree bit for bit. Loss weightings
            always need one pass.
        retain_graph: keep the graph, which is freed otherwise, as by `Tensor.backward`.
        fall_back: give every task the weight 1/K if the method reports by `converged` that it did
            not solve its equation. Otherwise its direction is written with a warning, once for each
            method; on CUDA, which this does not wait for, in a later call.

    Returns:
        The method's diagnostics, with `weights` `[K]` and `gramian` `[K, K]` (of the
        representation, if there is one) where the method has them. With a scaler also `skipped`,
        whether something overflowed: then every `.grad` is NaN, so that the scaler skips the step,
        and the method was not called and its state has not changed. (It was called if only a later
        pass overflowed: that of a loss weighting, or the one from a representation.) With
        `fall_back` also `fell_back`, where the method has `converged`.

    Without a scaler, losses or gradients that are not finite make `.grad` NaN, as in PyTorch, with
    a warning as for `fall_back`.

    `.grad` of a parameter that no loss depends on stays as it is. Hooks of a parameter that wait
    for `.grad` (`register_post_accumulate_grad_hook`) run once. Those of its gradient
    (`Tensor.register_hook`) run in every backward pass, so that the method sees what they return:
    once for each task that depends on the parameter, for loss weightings once. Gradients are sparse
    where `Tensor.backward` makes them so.

    Warns, in the first call, of parameters that the losses depend on and that are in neither group.

    Raises:
        ValueError: losses that are not K scalars with a graph; a loss below the `lowest_loss` of a
            method that needs positive ones; no shared parameter that requires a gradient, or none
            that a loss depends on; a representation that `check_representation` rejects; or an
            input that the method rejects. Neither `.grad` nor the method's state has changed then
            (the state of a loss weighting has, if its shared parameters were reached before).
        TypeError: `method` is not a method, or `convention` no convention.
        RuntimeError: `tasks_per_pass` tasks cannot share a pass; `.grad` and the method's state
            have not changed.

    Cost: one backward pass for loss weightings (and a second one through the heads for plain own
    gradients). K passes or the same work in fewer passes for the other kinds, whose direction is a
    sum over the rows of the Jacobian without another pass. Memory: K gradients of `shared`, and
    those of one pass, on a GPU twice. With a representation: K passes through the heads and one
    through the encoder, and K gradients of the representation.
    """
    check_method(method)
    check_whole_batch(method)
    tasks_per_pass = _check_tasks_per_pass(tasks_per_pass)
    convention = resolve_convention(convention, method)
    writer = GradWriter.create(shared, own, scaler, Processes(process_group), convention)
    scalars = scalar_losses(losses, writer.device)
    tasks_per_pass = check_shards_allowed(writer, method, tasks_per_pass, representation)
    shared_leaves, own_leaves = leaves_of(writer.shared), leaves_of(writer.own)
    check_leaves(scalars, shared_leaves, own_leaves, alone=writer.processes.size == 1)
    combination = Combination(method, noise, writer, retain_graph, fall_back)
    at = (
        writer.shared
        if representation is None
        else check_representation(representation, scalars, shared_leaves)
    )
    if isinstance(method, LossWeighting):
        return combination.of_losses(scalars)
    if representation is not None:
        check_representation_allowed(method, writer.processes.size)
        # The heads after the representation cannot be batched usefully.
        tasks_per_pass = tasks_per_pass or 1
    rows = GradientRows.zeros(len(scalars), at, writer)
    keep = retain_graph or representation is not None
    rows.add(scalars, at, writer, tasks_per_pass, keep)
    return combination.of_rows(rows, None if representation is None else at)


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
        shared: Parameters,
        own: Parameters = (),
        scaler: GradScaler | None = None,
        process_group: Group = "default",
        convention: Convention | str = PLAIN,
        tasks_per_pass: int | None = None,
    ) -> None:
        tasks_per_pass = _check_tasks_per_pass(tasks_per_pass)
        self._convention = check_convention(convention)
        self._writer = GradWriter.create(shared, own, scaler, Processes(process_group), PLAIN)
        self._tasks_per_pass = check_shards_allowed(self._writer, None, tasks_per_pass)
        self._rows: GradientRows | None = None

    def add(self, losses: Losses, *, retain_graph: bool = False) -> None:
        """Add the gradients of one micro-batch's K losses; its graph is freed by default.

        Raises:
            ValueError: losses that are not K scalars with a graph, or another K than before; none
                depends on a shared parameter.
            RuntimeError: a pass failed, as in `backward`. The sum is discarded, because it may
                contain only some of the tasks.
        """
        writer = self._writer
        scalars = scalar_losses(losses, writer.device)
        shared, own = leaves_of(writer.shared), leaves_of(writer.own)
        check_leaves(scalars, shared, own, alone=writer.processes.size == 1)
        rows = self._rows or GradientRows.zeros(len(scalars), writer.shared, writer)
        if len(scalars) != len(rows.losses):
            raise ValueError(
                f"add got {len(scalars)} losses after {len(rows.losses)}: give one loss per task."
            )
        self._rows = None
        rows.add(scalars, writer.shared, writer, self._tasks_per_pass, retain_graph)
        self._rows = rows

    def backward(self, method: Method, noise: Noise = None, *, fall_back: bool = False) -> Tensors:
        """Combine the sum, add the result to `.grad` and start a new sum.

        Returns the same as the function `backward`.

        Raises:
            ValueError: nothing was added, or as `backward`. The sum is preserved after any error.
            TypeError, RuntimeError: as `backward`.
        """
        if self._rows is None:
            raise ValueError("no losses were added: call add(losses) for every micro-batch first.")
        check_method(method)
        check_whole_batch(method)
        check_shards_allowed(self._writer, method, self._tasks_per_pass)
        writer = replace(self._writer, convention=resolve_convention(self._convention, method))
        combination = Combination(method, noise, writer, fall_back=fall_back)
        diagnostics = combination.of_rows(self._rows)
        self._rows = None
        return diagnostics


def _check_tasks_per_pass(tasks_per_pass: int | None) -> int | None:
    if tasks_per_pass is None:
        return None
    return check_integer("tasks_per_pass", tasks_per_pass, at_least=1, hint="or None")
