"""The learner of a run: agent, replay buffer, random streams, update schedule, periodic resets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl_fairgrad.agents import (
    Agent,
    Batch,
    Noise,
    ReplayBuffer,
    ReturnNormalizer,
    RewardNormalizer,
    SeedStreams,
    Transition,
    UpdateInfo,
)
from mtrl_fairgrad.agents.exploration import RandomActions
from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.gradients.cuda_graph import GraphedUpdates
from mtrl_fairgrad.gradients.cuda_recorder import CudaRecorder, Recorder
from mtrl_fairgrad.training.execution import execution_of
from mtrl_fairgrad.training.graphed_acting import GraphedActing, send_packed
from mtrl_fairgrad.training.update_schedule import updates_actor, updates_due
from mtrl_fairgrad.weighting import JacobianAggregation
from mtrl_fairgrad.weighting.base import unwrapped
from mtrl_fairgrad.weighting.rescaling import worsened

Groups = dict[str, dict[str, Tensor]]
"""Tensors of a checkpoint, by group and name."""


class Learner:
    """Agent, replay buffer and random streams of a run: everything but the simulators.

    Args:
        config: validated.
        agent: the agent to train.
        tasks: K.
        observation_dim: size of an observation.
        action_dim: size of an action.
        device: where the agent and the replay buffer are.

    Raises:
        MemoryError: the replay buffer does not fit into memory.
        ConfigError: `cuda_graph=true` without a CUDA device.
    """

    def __init__(
        self,
        config: Config,
        agent: Agent,
        tasks: int,
        observation_dim: int,
        action_dim: int,
        device: torch.device,
    ) -> None:
        graphed = execution_of(config, device).cuda_graph
        self.config, self.agent, self.device = config.agent, agent, device
        seeds = len(config.seeds)
        self._shape, self._action_dim = (seeds, tasks), action_dim
        self._batch_shape = (tasks, config.agent.batch_size)
        copies = self._copies = config.env.copies
        self.replay = ReplayBuffer(
            self.config.buffer_size,
            seeds,
            tasks,
            observation_dim,
            action_dim,
            device,
            copies=copies,
            n_step=self.config.n_step,
            discount=self.config.discount,
        )
        self._begins: Tensor | None = None
        """Whether each simulator's next transition is an episode's first, bool `[S, E, K]`."""
        per_task = self.config.return_normalization == "per_task"
        if self.config.n_step > 1 or per_task:
            self._begins = torch.ones(seeds, copies, tasks, dtype=torch.bool, device=device)
        self.streams = SeedStreams(config.seeds, device)
        self.exploration: RandomActions | None = None
        if rate := self.config.exploration_rate:
            self.exploration = RandomActions(config.seeds, copies, tasks, action_dim, rate)
        scaling = self.config.reward_normalization == "running_std"
        self.rewards = RewardNormalizer(seeds, tasks, device) if scaling else None
        self.returns: ReturnNormalizer | None = None
        if per_task:
            discount, v_max = self.config.discount, self.config.v_max
            self.returns = ReturnNormalizer(
                seeds, copies, tasks, discount, v_max, agent.target_entropy, device
            )
        self._recorder: Recorder | None = CudaRecorder(device) if device.type == "cuda" else None
        self._graph: GraphedUpdates | None = None
        self._acting: GraphedActing | None = None
        if graphed and self._recorder is not None:
            self.use_graphs(self._recorder)
        self._updates_per_launch = config.updates_per_launch
        self.updates = 0
        """Number of updates so far; reading the agent's counter would wait for the device."""
        self._latest: tuple[Batch, Noise, UpdateInfo] | None = None
        """Batch, noise and result of the last update of critics and actor, until `report` takes
        them.
        """

    def use_graphs(self, recorder: Recorder) -> None:
        """Replay updates and actions from graphs, which are captured after a warm-up."""
        self._recorder = recorder
        self._graph = GraphedUpdates(self._update, recorder)
        self._acting = GraphedActing(self.agent.act, self.device, recorder)

    # ---- acting and storing ----

    def act(
        self, observations: NDArray[np.float32], env_steps: int, half: int = 0
    ) -> NDArray[np.float32]:
        """Return actions `[S·E'·K, A]` of a half of the simulators, E' of each task.

        Uniform in [−1, 1] during warm-up, then sampled by the policy.

        Args:
            observations: `[S·E'·K, O]`.
            env_steps: transitions of each task so far.
            half: which one they are; 0 without copies.
        """
        seeds, tasks = self._shape
        copies = len(observations) // (seeds * tasks)
        shape = copies, tasks, self._action_dim
        if env_steps < self.config.warmup_steps:
            return self.streams.uniform(*shape).flatten(0, 2).cpu().numpy()
        noise = _copies_as_batch(self.streams.normal(*shape))
        inputs = _copies_as_batch(
            torch.from_numpy(observations.reshape(seeds, copies, tasks, -1)).float()
        )
        if self._acting is not None:
            actions = self._acting(inputs, noise)
        else:
            inputs = inputs.to(self.device, non_blocking=True)
            actions = self.agent.act(inputs, noise).cpu().numpy()
        if copies > 1:
            actions = actions.swapaxes(1, 2)
        if self.exploration is not None:
            actions = self.exploration.replace(actions.reshape(seeds, *shape), half)
        return actions.reshape(-1, self._action_dim)

    def to_transition(self, *arrays: NDArray[Any]) -> Transition:
        """Convert one step of E' simulators of each task.

        Args:
            arrays: `[S·E'·K, ...]`, in the order of `Transition`'s fields.
        """
        seeds, tasks = self._shape
        shape = seeds, len(arrays[0]) // (seeds * tasks), tasks
        if self._recorder is not None:
            return Transition(*send_packed(arrays, shape, self.device, self._recorder))
        tensors = (torch.from_numpy(each.reshape(*shape, *each.shape[1:])) for each in arrays)
        return Transition(*(each.float().to(self.device) for each in tensors))

    def store(self, step: Transition) -> None:
        """Store one step of the copies whose turn it is, fields `[S, E', K, ...]`.

        Rewards are normalised according to `agent.reward_normalization`; what
        `agent.return_normalization` and `agent.observation_normalization` need is updated.
        """
        if self.rewards is not None:
            step = step._replace(rewards=self.rewards.normalize(step.rewards))
        begins = None
        if self._begins is not None:
            copies = self.replay.next_copies(step.ended.shape[1])
            begins = self._begins[:, copies].clone()
            self._begins[:, copies] = step.ended > 0
            if self.returns is not None:
                self.returns.update(step.rewards, begins, copies)
        until = self.config.observation_normalization_steps
        if until is None or self.replay.added < until:
            self.agent.observe(step.observations)
        self.replay.add(step, begins)

    def restart_episodes(self) -> None:
        """Note that all episodes were abandoned: every simulator's next step begins a new one."""
        if self._begins is not None:
            self._begins.fill_(True)

    # ---- learning ----

    def updates_due(self, env_steps: int) -> int:
        """Number of updates during the step that follows `env_steps`; see `update_schedule`."""
        return updates_due(self.config, env_steps, self._copies)

    def learn(self, env_steps: int) -> None:
        """Make the updates that are due in this step, without waiting for the device."""
        due = self.updates_due(env_steps)
        if self._graph is not None:
            return self._replay_graph(self._graph, due)
        for _ in range(due):
            self._latest = self._update(self._draw(self.updates)) or self._latest
            self._count_updates(1)

    def _draw(self, update: int) -> tuple[Tensor, Noise]:
        """Draw all random numbers of one update from each seed's own stream.

        Nothing is drawn for an actor that has no part in the update.

        Args:
            update: its number, from 0.

        Returns:
            indices `[S, K, B]` into the replay buffer, and noise.
        """
        with_actor = updates_actor(self.config, update)
        indices = self.streams.integers(self.replay.size, *self._batch_shape)
        noise = Noise(
            self.streams.normal(*self._batch_shape, self._action_dim),
            self.streams.normal(*self._batch_shape, self._action_dim) if with_actor else None,
            self.agent.critic_method.draw(self.streams.generators),
            self.agent.actor_method.draw(self.streams.generators) if with_actor else None,
        )
        return indices, noise

    def _count_updates(self, count: int) -> None:
        """Count updates, and reset the agent after every `agent.reset_every` of them."""
        self.updates += count
        every = self.config.reset_every
        if every is not None and self.updates % every == 0:
            self.agent.reset(self.updates // every)

    def _replay_graph(self, graph: GraphedUpdates, due: int) -> None:
        """Make the updates by CUDA graphs that contain `updates_per_launch` of them.

        The remaining ones, at the end or before a reset, are made one by one.
        """
        every = self.config.reset_every
        while due:
            most = due if every is None else min(due, every - self.updates % every)
            size = self._updates_per_launch if self._updates_per_launch <= most else 1
            draws = [self._draw(self.updates + ahead) for ahead in range(size)]
            self._latest = graph(draws) or self._latest
            self._count_updates(size)
            due -= size

    def _update(self, drawn: tuple[Tensor, Noise]) -> tuple[Batch, Noise, UpdateInfo] | None:
        """Make one update from a draw, as the CUDA graph records it.

        Returns:
            batch, noise and result; None for an update of the critics alone.
        """
        indices, noise = drawn
        batch = self.sample(indices)
        info = self.agent.update(batch, noise)
        return None if info.actor is None else (batch, noise, info)

    @torch.no_grad()
    def sample(self, indices: Tensor) -> Batch:
        """Return the transitions at these places of the ring, normalised as the agent takes them.

        Args:
            indices: int64 `[S, K, B]`.
        """
        batch = self.replay.sample(indices)
        rewards = batch.rewards
        if self.returns is not None:
            rewards = self.returns.normalize(rewards, self.agent.log_temperature.exp())
        return batch._replace(
            observations=self.agent.normalized(batch.observations),
            next_observations=self.agent.normalized(batch.next_observations),
            rewards=rewards,
        )

    def report(self) -> dict[str, Tensor]:
        """Return the values of the last update of critics and actor for the log.

        With `SAC.conflicts`, and for methods whose direction is a weighted sum of task gradients
        with `critic/worsened` and `actor/worsened` `[S, K]`: 1 where the direction makes a task's
        loss grow to first order, else 0. Empty if there was no update since the last report.
        """
        if self._latest is None:
            return {}
        batch, noise, info = self._latest
        self._latest = None
        metrics = {**self.agent.conflicts(batch, noise), **info.metrics()}
        methods = {"critic": self.agent.critic_method, "actor": self.agent.actor_method}
        for network, method in methods.items():
            if not isinstance(unwrapped(method), JacobianAggregation):
                metrics[f"{network}/worsened"] = worsened(
                    metrics[f"{network}/gramian"], metrics[f"{network}/weights"]
                )
        if self.rewards is not None:
            metrics = {**metrics, "reward_deviation": self.rewards.deviation}
        if self.returns is not None:
            scale = self.returns.scale(self.agent.log_temperature.exp())
            metrics = {**metrics, "return_scale": scale}
        return metrics

    # ---- checkpoints ----

    def state(self) -> Groups:
        """Return everything needed to continue, except the replay buffer, as checkpoint groups."""
        parts: Groups = {
            "agent": self.agent.state(),
            "streams": {"generators": self.streams.state()},
            "rewards": {} if self.rewards is None else self.rewards.state(),
            "episodes": {} if self._begins is None else {"begins": self._begins},
            "returns": {} if self.returns is None else self.returns.state(),
            "exploration": {} if self.exploration is None else self.exploration.state(),
        }
        return {name: tensors for name, tensors in parts.items() if tensors}

    def load_state(self, groups: Groups) -> None:
        """Continue from what `state` returned for the same configuration.

        Raises:
            ValueError, KeyError, RuntimeError: the state belongs to another configuration.
        """
        self.agent.load_state(groups["agent"])
        self.streams.load_state(groups["streams"]["generators"])
        if self.rewards is not None:
            self.rewards.load_state(groups["rewards"])
        if self._begins is not None:
            self._begins.copy_(groups["episodes"]["begins"])
        if self.returns is not None:
            self.returns.load_state(groups["returns"])
        if self.exploration is not None:
            self.exploration.load_state(groups["exploration"])
        self.updates = int(self.agent.updates)
        if self._graph is not None and self._recorder is not None:
            self.use_graphs(self._recorder)  # Adam's moments are elsewhere now


def _copies_as_batch(values: Tensor) -> Tensor:
    """Return `[S, E', K, ...]` as a batch of each task: `[S, K, E', ...]`, or `[S, K, ...]`."""
    return values.squeeze(1) if values.shape[1] == 1 else values.transpose(1, 2).contiguous()
