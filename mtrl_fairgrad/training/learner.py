"""The learner of a run: the agent, what it remembers, its random streams, and when it updates and
begins anew.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl_fairgrad.agents import Batch, Noise, ReplayBuffer, RewardNormalizer, SeedStreams
from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.gradients.cuda_graph import Launches, cuda_graph
from mtrl_fairgrad.training.factory import make_agent

Groups = dict[str, dict[str, Tensor]]


def check_launches(config: Config, device: torch.device) -> None:
    """Refuse a CUDA graph of updates that are made elsewhere.

    Raises:
        ConfigError: they are.
    """
    if config.cuda_graph and device.type != "cuda":
        raise ConfigError(
            f"cuda_graph=true but the learner is on device={device.type}: drop it, or give "
            "device=cuda."
        )


class Learner:
    """Everything of a run that is not a simulator.

    Args:
        config: validated.
        tasks: K.
        observation_dim: numbers in an observation.
        action_dim: numbers in an action.
        device: where it learns.

    Raises:
        MemoryError: the replay does not fit.
    """

    def __init__(
        self,
        config: Config,
        tasks: int,
        observation_dim: int,
        action_dim: int,
        device: torch.device,
    ) -> None:
        self.config = config.agent
        seeds, self._size = len(config.seeds), (tasks, config.agent.batch_size)
        self._shape, self._device, self._action_dim = (seeds, tasks), device, action_dim
        self.replay = ReplayBuffer(
            self.config.buffer_size, seeds, tasks, observation_dim, action_dim, device
        )
        self.agent = make_agent(config, tasks, observation_dim, action_dim, device)
        self.streams = SeedStreams(config.seeds, device)
        scaling = self.config.reward_normalization == "running_std"
        self.rewards = RewardNormalizer(seeds, tasks, device) if scaling else None
        check_launches(config, device)
        self._launch = Launches(self._update, cuda_graph if config.cuda_graph else None)
        self._per_launch = config.updates_per_launch
        self.updates = 0
        """Made so far; the agent counts them, too, but asking it would wait for the device."""
        self._latest: tuple[tuple[Batch, Noise], dict[str, Tensor]] | None = None

    def updates_due(self, env_steps: int) -> int:
        """Updates of the step that begins after `env_steps`: as many as `updates_per_step` owes by
        then.

        There is none before the warm-up is over, and right after it at least `warmup_updates`.
        """
        since = env_steps - self.config.warmup_steps
        if since < 0:
            return 0
        ratio = self.config.updates_per_step
        usual = math.floor((since + 1) * ratio) - math.floor(since * ratio)
        return usual if since else max(usual, self.config.warmup_updates)

    def learn(self, env_steps: int) -> None:
        """The updates of this step; what the last one drew and reported stays on the device until
        it is asked for.
        """
        due, every = self.updates_due(env_steps), self.config.reset_every
        while due:
            before_reset = due if every is None else every - self.updates % every
            size = self._per_launch if self._per_launch <= min(due, before_reset) else 1
            self._latest = self._launch([self._draw() for _ in range(size)])
            self.updates, due = self.updates + size, due - size
            if size == before_reset and every is not None:
                self.agent.reset(self.updates // every)

    def _update(self, drawn: tuple[Tensor, Noise]) -> tuple[tuple[Batch, Noise], dict[str, Tensor]]:
        """One update, and what it saw."""
        indices, noise = drawn
        batch = self.replay.sample(indices)
        return (batch, noise), self.agent.update(batch, noise)

    def _draw(self) -> tuple[Tensor, Noise]:
        """Everything random about one update, from each seed's own stream: indices `[S, K, B]`, and
        noise.
        """
        indices = self.streams.integers(self.replay.size, *self._size)
        noise = Noise(
            self.streams.normal(*self._size, self._action_dim),
            self.streams.normal(*self._size, self._action_dim),
            self.agent.critic_method.draw(self.streams.generators),
            self.agent.actor_method.draw(self.streams.generators),
        )
        return indices, noise

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """`[S·K, ...]` from the simulators as float32 `[S, K, ...]` on the learner's device."""
        shaped = torch.from_numpy(array.reshape(*self._shape, *array.shape[1:]))
        return shaped.to(self._device, torch.float32, non_blocking=True)

    def remember(self, step: Batch) -> None:
        """Store one step of every task, fields `[S, K, ...]`, its rewards scaled if the
        configuration says so.
        """
        if self.rewards is not None:
            step = step._replace(rewards=self.rewards.scaled(step.rewards))
        self.replay.add(step)

    def report(self) -> dict[str, Tensor]:
        """What is to be logged of the last update since the last report, Gramians included; empty
        without any.
        """
        if self._latest is None:
            return {}
        drawn, metrics = self._latest
        self._latest = None
        if not {"critic/gramian", "actor/gramian"} <= metrics.keys():
            metrics = {**self.agent.conflicts(*drawn), **metrics}
        return (
            metrics
            if self.rewards is None
            else {**metrics, "reward_deviation": self.rewards.deviation}
        )

    def state(self) -> Groups:
        """Everything it needs to go on but its replay, as the groups of a checkpoint."""
        scale = {} if self.rewards is None else {"rewards": self.rewards.state()}
        streams = {"generators": self.streams.state()}
        return {"agent": self.agent.state(), "streams": streams, **scale}

    def load_state(self, groups: Groups) -> None:
        """Continue from what `state` returned for the same configuration.

        Raises:
            ValueError, KeyError, RuntimeError: it belongs to another one.
        """
        self.agent.load_state(groups["agent"])
        self.streams.load_state(groups["streams"]["generators"])
        if self.rewards is not None:
            self.rewards.load_state(groups["rewards"])
        self.updates = int(self.agent.updates)
