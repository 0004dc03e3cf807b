"""What an update launches on a GPU, traced with fake tensors on any machine.

Every PyTorch operation that is not a view counts as one launch, and so does a custom operation.
That is the number before fusion by a compiler. The card's own number differs somewhat: an operation
on a list of tensors launches a kernel for each portion of the list, some products launch two.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtrl_fairgrad.agents import Agent, Batch, Noise
from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.gradients.graph_capture import CapturedFunction
from mtrl_fairgrad.training.factory import make_agent
from mtrl_fairgrad.weighting.host import host_calls

from .fake_cuda import DEVICE, answer_with_fakes, fake_cuda

FREE = {
    "detach", "alias", "lift_fresh", "_unsafe_view", "empty", "empty_like", "empty_strided",
    "promote_types",
}  # fmt: skip
"""Operations besides views that launch nothing."""
NOT_IN_A_GRAPH = {
    "cholesky": "MAGMA or cuSOLVER, which may not run while a stream is captured",
    "cholesky_inverse": "MAGMA, which may not run while a stream is captured",
    "cholesky_solve": "MAGMA, which may not run while a stream is captured",
    "geqrf": "cuSOLVER, which does not support capture",
    "linalg_cholesky_ex": "cuSOLVER, which does not support capture",
    "_linalg_eigh": "cuSOLVER, which waits for the device",
    "linalg_eig": "MAGMA, which runs on the host",
    "linalg_householder_product": "cuSOLVER, which does not support capture",
    "linalg_inv_ex": "cuSOLVER, which does not support capture",
    "linalg_ldl_factor_ex": "cuSOLVER, which does not support capture",
    "linalg_ldl_solve": "cuSOLVER, which does not support capture",
    "linalg_lstsq": "MAGMA or cuSOLVER, which wait for the device",
    "linalg_lu": "cuSOLVER or MAGMA, which wait for the device",
    "linalg_lu_factor_ex": "cuSOLVER or MAGMA, which wait for the device",
    "linalg_lu_solve": "cuSOLVER or MAGMA, which wait for the device",
    "linalg_matrix_exp": "looks at norms on the host",
    "linalg_qr": "cuSOLVER, which does not support capture",
    "_linalg_det": "cuSOLVER or MAGMA, which wait for the device",
    "_linalg_slogdet": "cuSOLVER or MAGMA, which wait for the device",
    "_linalg_solve_ex": "cuSOLVER or MAGMA, which wait for the device",
    "_linalg_svd": "cuSOLVER, which waits for the device",
    "lu_unpack": "used with factorisations, which wait for the device",
    "ormqr": "cuSOLVER, which does not support capture",
    "_local_scalar_dense": "looks at a value (.item(), float(), bool(), tolist())",
    "is_nonzero": "looks at a value",
    "equal": "looks at values",
    "nonzero": "its result's shape depends on values",
    "nonzero_static": "waits for the device",
    "masked_select": "its result's shape depends on values",
    "unique_consecutive": "its result's shape depends on values",
    "unique_dim": "its result's shape depends on values",
    "_unique2": "its result's shape depends on values",
    "bincount": "its result's shape depends on values",
    "histc": "looks at values for its range",
    "cumsum": "has no deterministic form for floats: deterministic=true refuses it",
    "pin_memory": "allocates on the host",
    "_pin_memory": "allocates on the host",
}
"""Operation -> why an update on a GPU cannot have it. Operations that draw random numbers, whose
shapes depend on values, or that touch two devices are found by their properties."""


class GraphError(Exception):
    """An operation that a CUDA graph cannot hold.

    Args:
        operation: its name.
        reason: why.
    """

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(f"{operation} cannot be part of a CUDA graph: {reason}.")
        self.operation, self.reason = operation, reason


class Launches(NamedTuple):
    """What one update launches."""

    operations: Counter[str]
    """Operations that are not views, by name."""
    host_calls: Counter[str]
    """Functions computed on the host, by name; each splits the CUDA graph."""

    @property
    def launches(self) -> int:
        """Number of operations."""
        return self.operations.total()


class _Recorder(TorchDispatchMode):
    """Count operations, and refuse those that a CUDA graph cannot hold."""

    def __init__(self, operations: Counter[str], refuse: bool) -> None:
        super().__init__()
        self._operations, self._refuse = operations, refuse

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if self._refuse:
            reason = _refusal(func, name, args, kwargs)
            if reason is not None:
                raise GraphError(name, reason)
        result = func(*args, **kwargs)
        if name == "scalar_tensor":  # a number in the code, passed with the launch
            result.is_number = True
            return result
        if self._refuse and len(devices := _devices((args, kwargs, result))) > 1:
            raise GraphError(name, f"has tensors on {' and '.join(sorted(devices))}")
        if not func.is_view and name not in FREE and not name.startswith("prim"):
            self._operations[name] += 1
        return result


def _refusal(func: Any, name: str, args: Any, kwargs: Any) -> str | None:
    """Return why a CUDA graph cannot hold the operation; None if it can."""
    if name in NOT_IN_A_GRAPH:
        return NOT_IN_A_GRAPH[name]
    if torch.Tag.nondeterministic_seeded in func.tags:
        return "draws random numbers, whose generators a replay would not advance"
    if torch.Tag.dynamic_output_shape in func.tags and not _indices(name, args):
        return "its result's shape depends on values"
    if torch.Tag.data_dependent_output in func.tags:
        return "looks at a value"
    if any(
        each is not None and each.dtype in (torch.bool, torch.uint8)
        for each in _indices(name, args)
    ):
        return "selects by a mask, so that its result's shape depends on values"
    return None


def _indices(name: str, args: Any) -> list[Tensor | None]:
    """Return the index tensors of an operation that takes some."""
    takes = name.startswith(("index", "_index_put", "_unsafe_index")) and len(args) > 1
    return list(args[1]) if takes and isinstance(args[1], list | tuple) else []


def _devices(values: Any) -> set[str]:
    """Return the types of devices of all tensors but numbers."""
    tensors = [each for each in tree_leaves(values) if isinstance(each, Tensor)]
    return {each.device.type for each in tensors if not hasattr(each, "is_number")}


@contextmanager
def traced(refuse: bool = True) -> Generator[Launches]:
    """Count what the block launches, within `fake_cuda`.

    Args:
        refuse: raise `GraphError` at an operation that a CUDA graph cannot hold.
    """
    found = Launches(Counter(), Counter())

    def handle(function: Callable[..., Any], arguments: Any, options: Any) -> Any:
        found.host_calls[function.__qualname__] += 1
        return answer_with_fakes(function, arguments, options)

    with host_calls(handle), _Recorder(found.operations, refuse):
        yield found


def update_launches(
    config: Config,
    tasks: int,
    observation_dim: int,
    action_dim: int,
    refuse: bool = True,
    with_actor: bool = True,
) -> Launches:
    """Trace one update of the configuration's agent as it runs on a GPU.

    Args:
        config: validated.
        tasks: K.
        observation_dim: size of an observation.
        action_dim: size of an action.
        refuse: see `traced`.
        with_actor: whether the actor is updated, too.

    Raises:
        GraphError: a CUDA graph cannot hold the update.
    """
    config = dataclasses.replace(config, compile="false")
    with fake_cuda():
        agent = make_agent(config, tasks, observation_dim, action_dim, DEVICE)
        return agent_launches(agent, config, observation_dim, action_dim, refuse, with_actor)


def agent_launches(
    agent: Agent,
    config: Config,
    observation_dim: int,
    action_dim: int,
    refuse: bool = True,
    with_actor: bool = True,
) -> Launches:
    """Trace one update of an agent made within `fake_cuda`, like `update_launches`."""
    batch, noise = draw = fake_draw(agent, config, observation_dim, action_dim)
    with host_calls(answer_with_fakes):
        for each in _captured_functions(agent):
            each.after = 0  # shapes do not change, so the first call may make the capture
        agent.update(*draw)  # creates the moments and captures
    if not with_actor:
        noise = noise._replace(actions=None, actor_method=None)
    with traced(refuse) as found:
        agent.update(batch, noise)
    return found


def fake_draw(
    agent: Agent, config: Config, observation_dim: int, action_dim: int
) -> tuple[Batch, Noise]:
    """Return a batch and noise of the right shapes, within `fake_cuda`."""
    lead = len(config.seeds), agent.tasks, config.agent.batch_size
    generators = [torch.Generator().manual_seed(seed) for seed in config.seeds]

    def fake(*shape: int) -> Tensor:
        return torch.empty(*lead, *shape, device=DEVICE)

    def drawn(method: Any) -> Tensor | None:
        noise = method.draw(generators) if config.agent.name != "stl" else None
        return None if noise is None else noise.to(DEVICE)

    batch = Batch(fake(observation_dim), fake(action_dim), fake(), fake(observation_dim), fake())
    noise = Noise(
        fake(action_dim),
        fake(action_dim),
        drawn(agent.critic_method),
        drawn(agent.actor_method),
    )
    return batch, noise


def _captured_functions(agent: Any) -> list[CapturedFunction]:
    """Return the functions of an agent that are captured and replayed."""
    agent = getattr(agent, "lanes", agent)
    losses = agent.critic_loss, agent.actor_loss
    of_losses = [each for loss in losses for each in (loss.gradients, loss.values)]
    return [*of_losses, agent._targets_of_all]
