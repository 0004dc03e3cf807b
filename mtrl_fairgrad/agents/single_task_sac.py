"""Single-task learning: every task of every seed has a soft actor-critic of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from mtrl_fairgrad.agents.guard import FaultCounts
from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.agents.policy import PolicyModule, mode, split
from mtrl_fairgrad.agents.replay_buffer import Batch
from mtrl_fairgrad.agents.sac import SAC
from mtrl_fairgrad.agents.spec import Noise, SACSpec
from mtrl_fairgrad.config.guard import GuardConfig
from mtrl_fairgrad.gradients.conventions import PLAIN, Convention
from mtrl_fairgrad.weighting import LS


class SingleTaskSAC:
    """S·K independent agents of one task each, used like a `SAC` of S seeds and K tasks.

    They are the lanes of one `SAC` of S·K seeds, which keeps its seeds apart: networks, optimisers,
    temperatures and gradient clipping. All tasks of a seed begin with the same networks, those of a
    run of that seed on one task.

    Args:
        spec: hyper-parameters.
        seeds: the run's seeds.
        tasks: K.
        device: where parameters live.
        dtype: of parameters and arithmetic.
        convention: as of `SAC`; its K is 1 here.
        compile: as of `SAC`.
        guard: as of `SAC`; each task learns by itself here, so that only it is stopped or left out.
    """

    def __init__(
        self,
        spec: SACSpec,
        seeds: Sequence[int],
        tasks: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        convention: Convention = PLAIN,
        compile: bool = False,
        guard: GuardConfig | None = None,
    ) -> None:
        lanes = [seed for seed in seeds for _ in range(tasks)]
        self.lanes = SAC(spec, lanes, 1, LS(), LS(), device, dtype, convention, compile, guard)
        self.spec, self.tasks, self.device = spec, tasks, self.lanes.device
        self._shape = (len(seeds), tasks)
        self.critic_method, self.actor_method = self.lanes.critic_method, self.lanes.actor_method

    @property
    def updates(self) -> Tensor:
        """Updates made so far, each of all agents."""
        return self.lanes.updates

    def faults(self) -> FaultCounts:
        """As of `SAC`; what is stopped is a task of a seed."""
        counts, first, stopped = self.lanes.faults()
        return FaultCounts(
            counts.view(-1, *self._shape), first.view(-1, *self._shape), stopped.view(self._shape)
        )

    def act(
        self, observations: Tensor, noise: Tensor | None = None, policy: Tensors | None = None
    ) -> Tensor:
        """As of `SAC`."""
        apart = None if noise is None else _apart(noise)
        return self.lanes.act(_apart(observations), apart, policy).view(*self._shape, -1)

    def policy(self) -> Tensors:
        """As of `SAC`; all of it belongs to lanes, `shared.*` `[S·K, ...]`."""
        return self.lanes.policy()

    def policy_module(self, seed: int) -> PolicyModule:
        """As of `SAC`; everything in it belongs to one task."""
        (lanes,) = split(self.policy(), "shared")
        own = {name: value.unflatten(0, self._shape)[seed] for name, value in lanes.items()}
        return PolicyModule(partial(mode, self.lanes.losses), {}, own)

    def update(self, batch: Batch, noise: Noise) -> Tensors:
        """One gradient step of every agent; metrics `[S, K]`, since here each task has, say, its
        gradient norm.
        """
        metrics = self.lanes.update(*_lanes_of(batch, noise))
        return {name: value.reshape(self._shape) for name, value in metrics.items()}

    def conflicts(self, batch: Batch, noise: Noise) -> Tensors:
        """Gramians `[S, K, K]`, diagonal: gradients of tasks that share no parameter are
        orthogonal.
        """
        found = self.lanes.conflicts(*_lanes_of(batch, noise))
        return {name: torch.diag_embed(value.reshape(self._shape)) for name, value in found.items()}

    def reset(self, number: int) -> None:
        """Begin anew, all agents; see `SAC.reset`."""
        self.lanes.reset(number)

    def state(self) -> Tensors:
        """Everything the agents need to go on, as flat named tensors `[S·K, ...]`."""
        return self.lanes.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned for agents of the same configuration.

        Raises:
            ValueError: the state belongs to agents of another shape.
        """
        self.lanes.load_state(state)


def _apart(tensor: Tensor) -> Tensor:
    """`[S, K, ...]` as lanes of one task, `[S·K, 1, ...]`."""
    return tensor.flatten(0, 1).unsqueeze(1)


def _lanes_of(batch: Batch, noise: Noise) -> tuple[Batch, Noise]:
    """Batch and noise of the lanes; linear scalarisation draws no numbers of its own."""
    return Batch(*map(_apart, batch)), Noise(_apart(noise.next_actions), _apart(noise.actions))
