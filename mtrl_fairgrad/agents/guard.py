"""Detect numerical faults in updates, count them, and decide which seeds skip the step or stop.

Everything is computed on the learner's device and no value is read by the host, so that the guard
can be part of a CUDA graph.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.agents.masks import RowSnapshot
from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.agents.update_info import NetworkUpdate
from mtrl_fairgrad.config.guard import CHECKS, CONDITIONS, LS, SKIP, STOP, GuardConfig
from mtrl_fairgrad.gradients.graph_capture import CapturedFunction, Compile
from mtrl_fairgrad.weighting import Method

_torch: Any = torch  # some functions are not annotated

VANISHED = 1e-6
"""Relative norm, as in FairGrad's `min_relative_norm`, up to which a gradient has vanished."""
CRITIC = slice(0, len(CONDITIONS["critic"]))
ACTOR = slice(CRITIC.stop, len(CHECKS))
"""Conditions of each network among all C of them, in the order of `config.guard.CHECKS`."""


class FaultCounts(NamedTuple):
    """Faults of all updates so far."""

    counts: Tensor
    """`[C, S, K]`: number of updates with the fault, by condition in the order of
    `config.guard.CHECKS`; a fault of a whole seed counts for each of its tasks."""
    first: Tensor
    """`[C, S, K]`: first update with the fault, counted from 0; −1 if there was none."""
    stopped: Tensor
    """`[S, K]` bool: seeds and tasks that have stopped training."""


class Guard:
    """Check the updates of S seeds and K tasks.

    Args:
        config: the response to each condition.
        seeds: S.
        tasks: K.
        device: where updates run.
        compile: fuse the checks of an update on a GPU by `torch.compile`.
    """

    def __init__(
        self,
        config: GuardConfig,
        seeds: int,
        tasks: int,
        device: torch.device,
        compile: Compile = False,
    ) -> None:
        self._config = config
        fuse = bool(compile) and device.type == "cuda"
        self._respond = CapturedFunction(respond, compile=compile) if fuse else respond
        self.counts = torch.zeros((len(CHECKS), seeds, tasks), dtype=torch.int64, device=device)
        self.first = torch.full_like(self.counts, -1)
        self.stopped = torch.zeros(seeds, dtype=torch.bool, device=device)
        """`[S]`: seeds that have stopped training."""
        responses = [getattr(config, condition) for _, condition in CHECKS]
        self._may_skip = SKIP in responses
        self.falls_back = config.unsolved == LS
        """Whether tasks get equal weights where the method did not solve its equation."""

        def where(*wanted: str) -> Tensor:
            """Return the mask `[C, 1, 1]` of conditions with one of these responses."""
            chosen = [response in wanted for response in responses]
            return torch.tensor(chosen, device=device).view(-1, 1, 1)

        self._stops, self._skips = where(STOP), where(SKIP, STOP)

    # ---- checks ----

    def check_critic(self, critic: NetworkUpdate, value: Tensor, update: Tensor) -> Tensor:
        """Check the critics' combined gradient before their step.

        Args:
            critic: losses, gradient norm and diagnostics of the critics.
            value: mean Q, `[S, K]`.
            update: number of this update, from 0.

        Returns:
            `[S]` bool: seeds that must skip the rest of the update.
        """
        exploding = value.abs() > self._config.largest_value
        return self._check(CRITIC, critic, exploding, update)

    def check_actor(self, actor: NetworkUpdate, temperature: Tensor, update: Tensor) -> Tensor:
        """Check the actor's combined gradient before its step, like `check_critic`.

        Args:
            actor: losses, gradient norm and diagnostics of the actor.
            temperature: entropy coefficients, `[S, K]`.
            update: number of this update, from 0.
        """
        dead = temperature < self._config.smallest_temperature
        return self._check(ACTOR, actor, dead, update)

    def _check(
        self, conditions: slice, step: NetworkUpdate, unusual: Tensor, update: Tensor
    ) -> Tensor:
        """Store the new counts; arguments as in `respond`."""
        evidence = {"losses": step.losses, "norm": step.gradient_norm, "unusual": unusual}
        if step.gramian is not None:
            evidence["gramian"] = step.gramian
        if step.converged is not None:
            evidence["converged"] = step.converged
        counted = self.counts[conditions], self.first[conditions]
        responses = self._skips[conditions], self._stops[conditions]
        *new, stopped, skip = self._respond(evidence, counted, self.stopped, responses, update)
        _torch._foreach_copy_(counted, new)
        self.stopped.copy_(stopped)
        return skip

    def stop(self, diverged: Tensor, update: Tensor) -> None:
        """Stop seeds whose policy returns actions that are not finite, as a fault of the actor.

        Args:
            diverged: `[S, K]` bool.
            update: number of the next update, from 0.
        """
        condition = CHECKS.index(("actor", "non_finite"))
        occurred = diverged & ~self.stopped.unsqueeze(-1)
        first = self.first[condition]
        first.copy_(torch.where(occurred & (first < 0), update, first))
        self.counts[condition] += occurred
        self.stopped |= occurred.any(-1)

    def snapshot(self, method: Method) -> RowSnapshot:
        """Copy the method's state by seed, to be restored for seeds that skip the update.

        The copy is empty unless a response is `skip`: the method of a stopped seed is not used
        again.
        """
        return RowSnapshot(state for state in method.buffers() if self._may_skip and state.ndim)

    # ---- persistence ----

    def faults(self) -> FaultCounts:
        """Return the faults so far."""
        stopped = self.stopped.unsqueeze(-1).expand(self.counts.shape[1:])
        return FaultCounts(self.counts, self.first, stopped)

    def state(self) -> Tensors:
        """Return all state by name."""
        return {"counts": self.counts, "first": self.first, "stopped": self.stopped}

    def load_state(self, state: Tensors) -> None:
        """Restore what `state` returned."""
        for name, value in self.state().items():
            value.copy_(state[name])


def respond(
    evidence: Tensors,
    counted: tuple[Tensor, Tensor],
    stopped: Tensor,
    responses: tuple[Tensor, Tensor],
    update: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the faults of one network's update, as a pure function.

    Args:
        evidence: `losses` `[S, K]`, `norm` of the gradient `[S]`, `unusual` `[S, K]` bool: values
            or temperatures out of range; and, of methods that have them, `gramian` `[S, K, K]` and
            `converged` `[S]` bool.
        counted: counts and first updates of the network's conditions so far, each `[C', S, K]`.
        stopped: `[S]` bool, seeds that do not train any more; their faults do not count.
        responses: masks `[C', 1, 1]` of the conditions whose response is to skip or to stop, and of
            those whose response is to stop.
        update: number of this update.

    Returns:
        the new counts, first updates and stopped seeds, and the seeds to skip, `[S]` bool.
    """
    (counts, first), (skips, stops) = counted, responses
    faults = torch.stack([*_gradient_faults(evidence), evidence["unusual"]])
    occurred = faults & ~stopped.unsqueeze(-1)
    first = torch.where(occurred & (first < 0), update, first)
    skip = stopped | (occurred & skips).any(-1).any(0)
    return counts + occurred, first, stopped | (occurred & stops).any(-1).any(0), skip


def _gradient_faults(evidence: Tensors) -> list[Tensor]:
    """Return the masks `[S, K]` of non-finite, unsolved and vanished gradients."""
    losses, gramian = evidence["losses"], evidence.get("gramian")
    finite, vanished = losses.isfinite(), torch.zeros_like(losses, dtype=torch.bool)
    if gramian is not None:
        squares = gramian.diagonal(dim1=-2, dim2=-1)
        finite = finite & squares.isfinite()
        vanished = squares <= VANISHED**2 * squares.amax(-1, keepdim=True)
    all_finite = finite.all(-1, keepdim=True)
    unsolved = torch.zeros_like(vanished)
    if "converged" in evidence:
        unsolved = (all_finite & ~evidence["converged"].unsqueeze(-1)).expand_as(finite)
    # If only the combined gradient is not finite, the fault counts for all tasks.
    non_finite = ~(finite & (evidence["norm"].unsqueeze(-1).isfinite() | ~all_finite))
    return [non_finite, unsolved, vanished]
