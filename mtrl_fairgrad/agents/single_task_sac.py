"""Single-task learning: every task of every seed has a soft actor-critic of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mtrl_fairgrad.agents.guard import FaultCounts
from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.agents.policy import PolicyModule, policy_modules, split
from mtrl_fairgrad.agents.replay_buffer import Batch
from mtrl_fairgrad.agents.rng import Noise
from mtrl_fairgrad.agents.sac import SAC
from mtrl_fairgrad.agents.update_info import UpdateInfo
from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.config.guard import GuardConfig
from mtrl_fairgrad.gradients.conventions import PLAIN, Convention
from mtrl_fairgrad.gradients.graph_capture import Compile
from mtrl_fairgrad.weighting import LS


class SingleTaskSAC:
    """S·K independent agents of one task each, with the interface of a `SAC` of S seeds, K tasks.

    They are the *lanes* of one `SAC` of S·K seeds, which keeps seeds apart: networks, optimisers,
    temperatures, gradient clipping and guard. All tasks of a seed start from the same networks,
    those of a run of that seed on one task.

    Args:
        config: hyper-parameters.
        observation_dim: O.
        action_dim: A.
        seeds: the run's seeds.
        tasks: K.
        device: see `SAC`.
        dtype: see `SAC`.
        convention: see `SAC`; applied with K = 1.
        compile: see `SAC`.
        guard: see `SAC`; here it skips or stops single tasks.
        precision: see `SAC`.
        updates: see `SAC`.
        identity: see `SAC`; each lane normalises observations by statistics of its own task.
    """

    def __init__(
        self,
        config: AgentConfig,
        observation_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        tasks: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        convention: Convention = PLAIN,
        compile: Compile = False,
        guard: GuardConfig | None = None,
        precision: str = "fp32",
        updates: int | None = None,
        identity: int = 0,
    ) -> None:
        self.lanes = SAC(
            config,
            observation_dim,
            action_dim,
            [seed for seed in seeds for _ in range(tasks)],
            1,
            LS(),
            LS(),
            device,
            dtype,
            convention,
            compile,
            guard,
            precision,
            updates,
            identity,
        )
        self.config, self.tasks, self.device = config, tasks, self.lanes.device
        self.critic_method, self.actor_method = self.lanes.critic_method, self.lanes.actor_method
        self._shape = (len(seeds), tasks)

    @property
    def updates(self) -> Tensor:
        """Number of updates so far, the same for all lanes."""
        return self.lanes.updates

    @property
    def log_temperature(self) -> Tensor:
        """Logarithm of the entropy coefficients, `[S, K]`."""
        return self.lanes.log_temperature.view(self._shape)

    @property
    def target_entropy(self) -> float:
        """Target entropy of every lane's policy, in nats."""
        return self.lanes.target_entropy

    def observe(self, observations: Tensor) -> None:
        """Add observations `[S, E', K, O]` to their lanes' statistics."""
        self.lanes.observe(_to_lanes(observations.transpose(1, 2)))

    def normalized(self, observations: Tensor) -> Tensor:
        """Return observations `[S, K, ..., O]` as the networks take them."""
        return self.lanes.normalized(_to_lanes(observations)).view_as(observations)

    def stop(self, diverged: Tensor) -> None:
        """Stop training tasks, `[S, K]` bool, whose actions are not finite."""
        self.lanes.stop(_to_lanes(diverged))

    def faults(self) -> FaultCounts:
        """Return the faults of all updates so far; single tasks stop here."""
        counts, first, stopped = self.lanes.faults()
        return FaultCounts(
            counts.view(-1, *self._shape), first.view(-1, *self._shape), stopped.view(self._shape)
        )

    def act(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return actions `[S, K, A]`, or `[S, K, B, A]`; see `SAC.act`."""
        lane_noise = None if noise is None else _to_lanes(noise)
        return self.lanes.act(_to_lanes(observations), lane_noise).view(
            *observations.shape[:-1], -1
        )

    def policy(self) -> Tensors:
        """Return a copy of all parameters that acting needs: `shared.*` `[S·K, ...]`."""
        return self.lanes.policy()

    def policy_modules(self, policy: Tensors | None = None) -> tuple[PolicyModule, ...]:
        """Return each seed's policy; see `SAC.policy_modules`."""
        (lanes,) = split(self.policy() if policy is None else policy, "shared")
        own = {name: value.unflatten(0, self._shape) for name, value in lanes.items()}
        return policy_modules(self.lanes.losses, {}, own, self._shape[0])

    def update(self, batch: Batch, noise: Noise) -> UpdateInfo:
        """Make one update of every lane; all results are `[S, K]`, gradient norms included."""
        info = self.lanes.update(*_lanes_of(batch, noise))
        return tree_map_only(Tensor, lambda value: value.reshape(self._shape), info)

    def conflicts(self, batch: Batch, noise: Noise) -> Tensors:
        """See `SAC.conflicts`; the Gramians are diagonal, since tasks share no parameters."""
        entries = self.lanes.conflicts(*_lanes_of(batch, noise))
        by_task = {name: entry.reshape(self._shape) for name, entry in entries.items()}
        return {
            name: torch.diag_embed(entry) if name.endswith("gramian") else entry
            for name, entry in by_task.items()
        }

    def reset(self, number: int) -> None:
        """Re-initialise all lanes; see `SAC.reset`."""
        self.lanes.reset(number)

    def state(self) -> Tensors:
        """Return everything the agents need to continue, as flat named tensors `[S·K, ...]`."""
        return self.lanes.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned for agents of the same configuration.

        Raises:
            ValueError: the state belongs to another configuration.
        """
        self.lanes.load_state(state)


def _to_lanes(tensor: Tensor) -> Tensor:
    """Reshape `[S, K, ...]` to lanes of one task, `[S·K, 1, ...]`."""
    return tensor.flatten(0, 1).unsqueeze(1)


def _lanes_of(batch: Batch, noise: Noise) -> tuple[Batch, Noise]:
    """Return batch and noise of the lanes; linear scalarisation draws no numbers."""
    actions = None if noise.actions is None else _to_lanes(noise.actions)
    lane_noise = Noise(_to_lanes(noise.next_actions), actions)
    return tree_map_only(Tensor, _to_lanes, batch), lane_noise
