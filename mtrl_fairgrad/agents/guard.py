"""What goes wrong in an update: found, answered and counted where the update is computed.

Nothing here looks at a value on the host, so that it can be part of a CUDA graph; on a CPU, where
looking is free, what only matters when something is wrong is left out.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.config.guard import ALL, CONDITIONS, SKIP, STOP, GuardConfig
from mtrl_fairgrad.weighting import Method

SHORTEST = 1e-6
"""A task's gradient below this share of the seed's longest one has vanished; FairGrad's default
leaves it out, too.
"""


class FaultCounts(NamedTuple):
    """What went wrong so far."""

    counts: Tensor
    """`[C, S, K]`: in how many updates, by condition in the order of `guard_config.ALL`; what
    belongs to no task alone counts for each."""
    first: Tensor
    """`[C, S, K]`: in which update first, from 0; −1 where never."""
    stopped: Tensor
    """`[S, K]` bool: what learns no more."""


class Guard:
    """Watches the updates of S seeds and K tasks.

    Args:
        config: the answers.
        seeds: S.
        tasks: K.
        device: where updates are computed.
    """

    def __init__(self, config: GuardConfig, seeds: int, tasks: int, device: torch.device) -> None:
        self._config = config
        self.counts = torch.zeros((len(ALL), seeds, tasks), dtype=torch.int64, device=device)
        self.first = torch.full_like(self.counts, -1)
        self.stopped = torch.zeros(seeds, dtype=torch.bool, device=device)
        """`[S]`: seeds that learn no more."""
        answers = {
            network: [getattr(config, each) for each in found]
            for network, found in CONDITIONS.items()
        }
        self._remembers = any(SKIP in given for given in answers.values())

        def asking(*wanted: str) -> dict[str, Tensor]:
            """Which conditions of a network, `[4, 1, 1]`, have one of these answers."""
            chosen = {
                network: [answer in wanted for answer in given]
                for network, given in answers.items()
            }
            return {
                network: torch.tensor(which, device=device).view(-1, 1, 1)
                for network, which in chosen.items()
            }

        self._stopping, self._leaving_out = asking(STOP), asking(SKIP, STOP)

    def faults(self) -> FaultCounts:
        """All so far."""
        return FaultCounts(
            self.counts, self.first, self.stopped.unsqueeze(-1).expand(self.counts.shape[1:])
        )

    def look(self, network: str, metrics: Tensors, update: Tensor) -> Tensor:
        """Look at a network's combined gradient before its step, and count what is found where a
        seed still learns.

        Args:
            network: `critic` or `actor`.
            metrics: `<network>/loss` `[S, K]`, `<network>/gradient_norm` `[S]`, `critic/value` or
                `temperature` `[S, K]`, and what the method reported; without a Gramian no task's
                gradient is looked at by itself.
            update: number of this update.

        Returns:
            `[S]` bool: seeds whose step has to be left out.
        """
        found = torch.stack(self._conditions(network, metrics)) & ~self.stopped.unsqueeze(-1)
        begin = 0 if network == "critic" else len(found)
        counts, first = (
            self.counts[begin : begin + len(found)],
            self.first[begin : begin + len(found)],
        )
        counts += found
        first.copy_(torch.where(found & (first < 0), update, first))
        left_out = self.stopped | (found & self._leaving_out[network]).any(-1).any(0)
        self.stopped |= (found & self._stopping[network]).any(-1).any(0)
        return left_out

    def _conditions(self, network: str, metrics: Tensors) -> list[Tensor]:
        """Where, `[S, K]` bool, each of the network's `CONDITIONS` holds."""
        losses, norms = (
            metrics[f"{network}/loss"],
            metrics[f"{network}/gradient_norm"].unsqueeze(-1),
        )
        finite, nowhere = losses.isfinite(), torch.zeros_like(losses, dtype=torch.bool)
        gramian, solved = metrics.get(f"{network}/gramian"), metrics.get(f"{network}/converged")
        short, unsolved = nowhere, nowhere
        if gramian is not None:
            squares = gramian.diagonal(dim1=-2, dim2=-1)
            finite = finite & squares.isfinite()
            short = squares <= SHORTEST**2 * squares.amax(-1, keepdim=True)
        everywhere = finite.all(-1, keepdim=True)
        if solved is not None:
            unsolved = (everywhere & ~solved.unsqueeze(-1)).expand_as(finite)
        # Where only the combined gradient is no number, it is everybody's.
        bad = ~(finite & (norms.isfinite() | ~everywhere))
        if network == "critic":
            return [
                bad,
                unsolved,
                short,
                metrics["critic/value"].abs() > self._config.largest_value,
            ]
        return [bad, unsolved, short, metrics["temperature"] < self._config.smallest_temperature]

    @contextmanager
    def watching(self, method: Method) -> Generator[list[Tensor]]:
        """Let the method forget what it saw of the seeds, `[S]` bool, that are put into the list
        meanwhile.

        Only where updates may be skipped: what a stopped seed's method remembers is of no use any
        more.
        """
        left_out: list[Tensor] = []
        memories = [memory for memory in method.buffers() if memory.ndim] if self._remembers else []
        before = [memory.clone() for memory in memories]
        yield left_out
        for rows in left_out:
            _put_back(memories, before, rows)

    # ---- persistence ----

    def state(self) -> Tensors:
        """What was counted."""
        return {"counts": self.counts, "first": self.first, "stopped": self.stopped}

    def load_state(self, state: Tensors) -> None:
        """Continue from what `state` returned."""
        for name, value in self.state().items():
            value.copy_(state[name])


@contextmanager
def kept(rows: Tensor, tensors: Iterable[Tensor]) -> Generator[bool]:
    """Put back the `rows` `[S]` (bool) of `tensors` `[S, ...]`, whatever happens within; yields
    whether any may be.
    """
    if rows.device.type == "cpu" and not torch.compiler.is_compiling() and not rows.any():
        yield False
        return
    changed = list(tensors)
    before = [tensor.clone() for tensor in changed]
    yield True
    _put_back(changed, before, rows)


def blank(rows: Tensor, tensors: Tensors) -> Tensors:
    """The same with zeros in these `rows` `[S]` (bool)."""
    return {name: torch.where(_along(rows, tensor), 0, tensor) for name, tensor in tensors.items()}


def _put_back(tensors: Iterable[Tensor], before: Iterable[Tensor], rows: Tensor) -> None:
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(torch.where(_along(rows, tensor), old, tensor))


def _along(rows: Tensor, tensor: Tensor) -> Tensor:
    return rows.view(-1, *(1,) * (tensor.ndim - 1))
