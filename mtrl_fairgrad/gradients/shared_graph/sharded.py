"""Parameters that `fully_shard` (FSDP2) distributes over processes.

Between passes such a parameter is a `DTensor`, of which each process stores a shard. During a pass
its module has a gathered parameter instead, which is the leaf of the autograd graph; only
`Tensor.backward` runs the hooks that gather it, average its gradient over the processes and write
the shard of the mean to the `DTensor`'s `.grad`. So the gradients of one task are computed by a
backward pass, and taken from `.grad`, which is put back.

Everything is then computed from shards: inner products and squared norms are sums over processes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mtrl_fairgrad.gradients.shared_graph.distributed import Processes
from mtrl_fairgrad.utils.validation import ConfigError
from mtrl_fairgrad.weighting.products import gramian


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a `DTensor`."""
    return hasattr(tensor, "device_mesh")


def shard_of(tensor: Tensor) -> Tensor:
    """Return this process's shard of a `DTensor`, other tensors themselves; detached."""
    whole: Any = tensor.detach()
    return whole.to_local() if is_sharded(tensor) else whole


def with_layout_of(parameter: Tensor, shard: Tensor) -> Tensor:
    """Return the `DTensor` like `parameter` with this process's `shard`; for others the shard."""
    if not is_sharded(parameter):
        return shard
    from torch.distributed.tensor import DTensor

    known: Any = parameter
    return DTensor.from_local(
        shard,
        known.device_mesh,
        known.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def hooks_after_grad(parameter: Tensor) -> dict[int, Callable[[Tensor], None]]:
    """Return the hooks that `register_post_accumulate_grad_hook` has stored; PyTorch lists none."""
    return getattr(parameter, "_post_accumulate_grad_hooks", None) or {}


# ---- what fully_shard manages ----


def stored_parameters(parameters: Iterable[Tensor], group: str) -> list[Tensor]:
    """Return parameters with stored ones in place of those that `fully_shard` has gathered.

    `module.parameters()` returns gathered ones between forward and backward pass.

    Args:
        parameters: of any kind.
        group: the argument's name.

    Raises:
        ConfigError: a parameter of `FullyShardedDataParallel` (FSDP1).
    """
    parameters = list(parameters)
    for index, parameter in enumerate(parameters):
        if getattr(parameter, "_fsdp_flattened", False):
            raise ConfigError(
                f"{group} contains at {index} a parameter of FullyShardedDataParallel, whose "
                "gradients exist for all tasks together only: use fully_shard.",
                group,
                parameter,
            )
    stored = {id(found): kept for kept, found in _managed() if found is not None}
    return [stored.get(id(parameter), parameter) for parameter in parameters]


def check_sharded(parameters: Sequence[Tensor], processes: Processes) -> None:
    """Check that all `DTensor`s among the parameters are those of `fully_shard`.

    Raises:
        ValueError: tensor parallelism, or processes other than those of `processes`.
    """
    sharded = [parameter for parameter in parameters if is_sharded(parameter)]
    if not sharded:
        return
    gathered = {id(kept): found for kept, found in _managed()}
    for parameter in sharded:
        known: Any = parameter
        name = f"a parameter of shape {tuple(parameter.shape)} is a DTensor"
        found = gathered.get(id(parameter))
        if id(parameter) not in gathered or (found is not None and is_sharded(found)):
            raise ValueError(
                f"{name} of tensor parallelism or another layout, whose task gradients are not "
                "supported: distribute modules by fully_shard alone."
            )
        ranks = sorted(known.device_mesh.mesh.flatten().tolist())
        if ranks != processes.ranks():
            raise ValueError(
                f"{name} over the processes {ranks}, but process_group has {processes.ranks()}: "
                "give process_group= the processes of the mesh given to fully_shard."
            )


def _managed() -> list[tuple[Tensor, Tensor | None]]:
    """Return the stored and the gathered parameter for each one that `fully_shard` manages.

    The gathered one is None before the first forward pass. PyTorch has no public way from one to
    the other.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return []
    try:
        from torch.distributed import _composable_state as composable
    except ImportError:
        return []
    states: Any = getattr(composable, "_module_state_mapping", {})
    found: dict[int, tuple[Tensor, Tensor | None]] = {}
    for reference in list(states.values()):
        state = reference() if callable(reference) else reference
        for group in getattr(state, "_fsdp_param_groups", None) or ():
            for each in group.fsdp_params:
                found[id(each)] = each.sharded_param, getattr(each, "_unsharded_param", None)
    return list(found.values())


def leaves_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return what stands for each parameter in the graph of the last forward pass."""
    gathered = {id(kept): found for kept, found in _managed() if found is not None}
    return [gathered.get(id(parameter), parameter) for parameter in parameters]


# ---- gradients ----


def gradients_of(
    outputs: Sequence[Tensor],
    tensors: Sequence[Tensor],
    factors: Sequence[Tensor],
    retain_graph: bool,
) -> Sequence[Tensor | None]:
    """Compute gradients as `torch.autograd.grad` does, None for a tensor without effect.

    Args:
        outputs: of the graph.
        tensors: parameters, of which those of `fully_shard` get this process's shard of the mean
            over all processes, or inner tensors of the graph.
        factors: what the outputs' gradients are, of their shapes.
        retain_graph: keep the graph.

    Raises:
        RuntimeError: a graph that PyTorch frees before it is needed again.
    """
    try:
        if not any(map(is_sharded, tensors)):
            return torch.autograd.grad(
                outputs, tensors, factors, retain_graph=retain_graph, allow_unused=True
            )
        return _by_backward(outputs, tensors, factors, retain_graph)
    except RuntimeError as error:
        if "donated" not in str(error):
            raise
        raise RuntimeError(
            "a module compiled by torch.compile frees its buffers in the first of several backward "
            "passes: set torch._functorch.config.donated_buffer = False before its first forward "
            "pass, or give its output as representation=."
        ) from error


def _by_backward(
    outputs: Sequence[Tensor],
    tensors: Sequence[Tensor],
    factors: Sequence[Tensor],
    retain_graph: bool,
) -> list[Tensor | None]:
    gathered = {id(kept): found for kept, found in _managed()}
    inputs = [gathered.get(id(tensor)) if is_sharded(tensor) else tensor for tensor in tensors]
    with _without_grad(tensors):
        torch.autograd.backward(
            list(outputs),
            list(factors),
            retain_graph=retain_graph,
            inputs=[tensor for tensor in inputs if tensor is not None],
        )
        found = [tensor.grad for tensor in tensors]
    return [None if gradient is None else shard_of(gradient) for gradient in found]


@contextmanager
def _without_grad(tensors: Sequence[Tensor]) -> Generator[None]:
    """Take `.grad` and the hooks that wait for it away, and put them back."""
    leaves = [tensor for tensor in tensors if tensor.is_leaf]
    grads = [tensor.grad for tensor in leaves]
    hooks = [(found, dict(found)) for leaf in leaves if (found := hooks_after_grad(leaf))]
    for tensor in leaves:
        tensor.grad = None
    for found, _ in hooks:
        found.clear()
    try:
        yield
    finally:
        for found, known in hooks:
            found.update(known)
        for tensor, grad in zip(leaves, grads, strict=True):
            tensor.grad = grad
        for tensor in tensors:
            if not tensor.is_leaf:
                tensor.grad = None


# ---- sums over shards ----


def sum_over_shards(parts: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Sum what was computed from each parameter, over parameters and the processes with shards.

    Args:
        parts: position of a parameter -> a tensor, of equal shapes.
        parameters: all parameters.
    """
    sums: dict[tuple[Any, ...], Tensor] = {}
    for name, part in parts.items():
        key = tuple(_shard_groups(parameters[int(name)]))
        sums[key] = sums[key] + part if key in sums else part
    totals: list[Tensor] = []
    for groups, total in sums.items():
        total = total.clone() if groups else total
        for group in groups:
            dist.all_reduce(total, group=group)  # pyright: ignore[reportUnknownMemberType]
        totals.append(total)
    return torch.stack(totals).sum(0)


def gramian_of_shards(jacobian: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the Gramian `[K, K]` of rows `[K, *shape]`, shards for parameters that have them."""
    parts = {name: gramian({name: rows}) for name, rows in jacobian.items()}
    return sum_over_shards(parts, parameters)


def _shard_groups(parameter: Tensor) -> list[Any]:
    """Return the groups of processes whose shards together are a copy of the parameter."""
    if not is_sharded(parameter):
        return []
    known: Any = parameter
    return [
        known.device_mesh.get_group(axis)
        for axis, placement in enumerate(known.placements)
        if placement.is_shard()
    ]
