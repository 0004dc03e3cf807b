"""Multi-task soft actor-critic (Haarnoja et al., 2018).

All seeds train together in stacked tensors, and a method combines the task gradients. Each loss is
written for one task of one seed (`sac_losses`) and lifted over both axes by
`mtrl_fairgrad.gradients.per_task.combine`. Parameters that tasks share receive the combined
direction, a task's own parameters (heads, embedding, temperature) its own gradient. An update has
fixed shapes, draws no random numbers and never waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mtrl_fairgrad.agents.agent_state import check_parts, flatten, part_of
from mtrl_fairgrad.agents.batch_loss import BatchLoss
from mtrl_fairgrad.agents.guard import FaultCounts, Guard
from mtrl_fairgrad.agents.initialization import initial_parameters
from mtrl_fairgrad.agents.learning_rate import rates_of
from mtrl_fairgrad.agents.masks import move_towards, preserve_rows
from mtrl_fairgrad.agents.networks import Parameters, Tensors, encoder_parameters
from mtrl_fairgrad.agents.observation_normalizer import ObservationNormalizer, normalized
from mtrl_fairgrad.agents.optimizer import ClippedGradient, clip_by_norm, optimized
from mtrl_fairgrad.agents.policy import (
    PolicyModule,
    acting_parameters,
    merge,
    policy_modules,
    split,
)
from mtrl_fairgrad.agents.replay_buffer import Batch
from mtrl_fairgrad.agents.rng import Noise
from mtrl_fairgrad.agents.sac_losses import SACLosses, captured_losses
from mtrl_fairgrad.agents.update_info import NetworkUpdate, UpdateInfo
from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.config.execution import PRECISIONS
from mtrl_fairgrad.config.guard import GuardConfig
from mtrl_fairgrad.gradients.conventions import PLAIN, Convention
from mtrl_fairgrad.gradients.graph_capture import Compile
from mtrl_fairgrad.gradients.per_task import Combined, lift, over_seeds
from mtrl_fairgrad.utils.validation import check_choice
from mtrl_fairgrad.weighting import Method, gramian
from mtrl_fairgrad.weighting.half_batches import (
    ratio_of_squares,
    unbiased_gramian,
    whole_gramian,
)


class SAC:
    """The agent of S seeds and K tasks.

    Args:
        config: hyper-parameters.
        observation_dim: O.
        action_dim: A.
        seeds: the run's seeds; each initialises its networks from its own generator.
        tasks: K.
        critic_method: combines the critics' task gradients.
        actor_method: combines the actor's task gradients; a different instance, since methods may
            have state.
        device: where parameters are and updates run.
        dtype: floating-point type of parameters and updates.
        convention: applied to the methods' results before clipping.
        compile: use `torch.compile` for task gradients and targets.
        guard: responses to numerical faults; by default a seed whose loss becomes NaN or inf stops
            training.
        precision: of the networks' matrix products: `fp32`, `tf32`, which is a setting of the
            process (`mtrl_fairgrad.training.execution`), or `bf16`.
        updates: number of updates of the run, over which `learning_rate_end` is reached.
        identity: length of the one-hot identity at the end of an observation.

    Raises:
        ValueError: the actor's method needs positive losses, the precision is unknown, or
            `learning_rate_end` is given without `updates`.
    """

    def __init__(
        self,
        config: AgentConfig,
        observation_dim: int,
        action_dim: int,
        seeds: Sequence[int],
        tasks: int,
        critic_method: Method,
        actor_method: Method,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        convention: Convention = PLAIN,
        compile: Compile = False,
        guard: GuardConfig | None = None,
        precision: str = "fp32",
        updates: int | None = None,
        identity: int = 0,
    ) -> None:
        if actor_method.needs_positive_losses:
            raise ValueError(
                "actor_method needs positive losses, but an actor's losses may be negative: give "
                'another method, such as LS(reduction="mean").'
            )
        self.precision = check_choice("precision", precision, PRECISIONS)
        self.config, self.seeds, self.tasks = config, tuple(seeds), tasks
        self.observation_dim, self.action_dim = observation_dim, action_dim
        self.device, self.convention = torch.device(device), convention
        on_gpu = self.device.type == "cuda"
        self.losses = SACLosses.from_config(
            config, self.precision, on_gpu, (observation_dim, action_dim)
        )
        captured = captured_losses(self.losses, compile)
        self.critic_loss = captured.critic_loss
        self.actor_loss = captured.actor_loss
        self._targets_of_all = captured.bellman_targets
        self.rates = rates_of(config, updates, self.device)
        initial = self._initial_parameters(0, dtype)
        self.actor, self.critics, self.temperature = optimized(initial, config, self.rates)
        self.target_critics = {name: value.clone() for name, value in self.critics.shared.items()}
        self.target_own = {name: value.clone() for name, value in self.critics.own.items()}
        self.critic_method = self._init_method(critic_method, self.critics.shared)
        self.actor_method = self._init_method(actor_method, self.actor.shared)
        self.guard = Guard(guard or GuardConfig(), len(self.seeds), tasks, self.device, compile)
        self.target_entropy = (
            -action_dim if config.target_entropy is None else config.target_entropy
        )
        self.observations: ObservationNormalizer | None = None
        if config.observation_normalization == "running":
            self.observations = ObservationNormalizer(
                len(self.seeds), observation_dim, identity, self.device, dtype
            )
        self.updates = torch.zeros((), dtype=torch.int64, device=self.device)
        """Number of updates so far."""

    def _initial_parameters(self, reset: int, dtype: torch.dtype) -> tuple[Parameters, ...]:
        """Initialise actor, critics and temperatures; `reset` is 0 at the start of a run."""
        sizes = self.observation_dim, self.action_dim, self.tasks
        return initial_parameters(self.config, sizes, self.seeds, self.device, dtype, reset)

    def _init_method(self, method: Method, shared: Tensors) -> Method:
        """Give the method its sizes and state for the Jacobian of these parameters."""
        jacobian = {
            name: value.unsqueeze(1).expand(-1, self.tasks, *value.shape[1:])
            for name, value in shared.items()
        }
        return method.init(self.tasks, (len(self.seeds),), jacobian).to(self.device)

    # ---- acting ----

    @torch.no_grad()
    def act(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return actions `[S, K, A]`, or `[S, K, B, A]` for several observations of each task.

        Args:
            observations: `[S, K, O]` or `[S, K, B, O]`, as the environment returns them.
            noise: standard normal, shaped like the actions, to sample; None for the mode.
        """
        # The fewer parameters, the less time the lifting takes.
        shared = self.actor.shared, encoder_parameters(self.critics.shared)
        own = self.actor.own, encoder_parameters(self.critics.own)
        observations = self.normalized(observations)
        # Without own parameters the tasks are an ordinary batch, which takes a third of the time.
        action = self.losses.action
        lifted = lift(action, per_seed=1) if any(own) else over_seeds(action)
        return lifted(shared, own, observations, *(() if noise is None else (noise,)))

    def policy(self) -> Tensors:
        """Copy all parameters needed to act: `shared.*` `[S, ...]` and `own.*` `[S, K, ...]`."""
        parameters = merge(
            shared=acting_parameters(
                self.actor.shared, self.critics.shared, self._of_observations()
            ),
            own=acting_parameters(self.actor.own, self.critics.own, {}),
        )
        return {name: value.detach().clone() for name, value in parameters.items()}

    # ---- observations ----

    def observe(self, observations: Tensor) -> None:
        """Add observations `[S, E', K, O]` to the statistics by which they are normalised."""
        if self.observations is not None:
            self.observations.update(observations)

    def normalized(self, observations: Tensor) -> Tensor:
        """Return observations `[S, ..., O]` as the networks take them."""
        return normalized(observations, self._of_observations())

    def _of_observations(self) -> Tensors:
        return {} if self.observations is None else self.observations.parameters

    def policy_modules(self, policy: Tensors | None = None) -> tuple[PolicyModule, ...]:
        """Return each seed's policy with a copy of its parameters on the CPU.

        Args:
            policy: result of `policy`; None for the current one.
        """
        shared, own = split(self.policy() if policy is None else policy, "shared", "own")
        return policy_modules(self.losses, shared, own, len(self.seeds))

    # ---- training ----

    @torch.no_grad()
    def update(self, batch: Batch, noise: Noise) -> UpdateInfo:
        """Make one gradient step of critics, actor and temperatures, and move the target critics.

        Args:
            batch: transitions, each field `[S, K, B, ...]`, with observations from `normalized`.
            noise: all random numbers of the update; without those of the actor, actor and
                temperatures stay as they are.
        """
        temperature = self.log_temperature.exp()
        self.rates.advance(self.updates)

        # Critics: both Q functions regress on the Bellman targets.
        targets = self.bellman_targets(batch, noise, temperature)
        critic, value, skip = self._step(
            self.loss_of_critics(batch, targets),
            self.critic_method,
            noise.critic_method,
            lambda critic, value: self.guard.check_critic(critic, value, self.updates),
        )

        actor, entropy = None, None
        if noise.actions is not None:
            actor, entropy, skip = self._update_actor(
                batch, noise.actions, noise.actor_method, temperature, skip
            )
        move_towards(*self._target_pairs(), self.config.polyak, skip)
        self.updates += 1
        return UpdateInfo(temperature, critic, value, actor, entropy)

    def _update_actor(
        self,
        batch: Batch,
        noise: Tensor,
        method_noise: Tensor | None,
        temperature: Tensor,
        skip: Tensor,
    ) -> tuple[NetworkUpdate, Tensor, Tensor]:
        """Make one step of actor and temperatures, except for the seeds in `skip`, `[S]` bool.

        Returns:
            losses, norm and diagnostics; the entropy `[S, K]`; the seeds that were skipped.
        """
        # Actor: temperature · log π − min Q, with the critics just updated.
        actor, entropy, skip = self._step(
            self.loss_of_actor(batch, noise, temperature),
            self.actor_method,
            method_noise,
            lambda actor, _: skip | self.guard.check_actor(actor, temperature, self.updates),
        )

        # Temperatures: minimise log(temperature)·(entropy − target entropy), each task by itself.
        surplus = entropy - self.target_entropy
        if self.config.temperature_loss == "linear":  # the temperature in place of its logarithm
            surplus = temperature * surplus
        if self.config.temperature == "shared":  # K equal entries, which equal gradients keep equal
            surplus = surplus.mean(-1, keepdim=True).expand_as(surplus)
        self.temperature.step({}, {"log_temperature": surplus}, skip)
        return actor, entropy, skip

    def _step(
        self,
        loss: BatchLoss,
        method: Method,
        noise: Tensor | None,
        check: Callable[[NetworkUpdate, Tensor], Tensor],
    ) -> tuple[NetworkUpdate, Tensor, Tensor]:
        """Make one step of the critics or of the actor along the combined gradient.

        Args:
            loss: the network's.
            method: combines the task gradients.
            noise: of the method.
            check: takes losses, norm and diagnostics of the step and the loss's auxiliary output,
                and returns the seeds that must skip the rest of the update, `[S]` bool.

        Returns:
            the arguments of `check` and its result.
        """
        before = self.guard.snapshot(method)
        combined = loss.combined(
            method,
            noise=noise,
            convention=self.convention,
            fall_back=self.guard.falls_back,
        )
        gradient = self._clipped(method, combined)
        update = NetworkUpdate(combined.losses, gradient.norm, combined.diagnostics)
        skip = check(update, combined.auxiliary)
        loss.parameters.step(gradient.shared, gradient.own, skip)
        if method.looks_after_step:
            method.after_step(loss.values())
        before.restore(skip)
        return update, combined.auxiliary, skip

    def _clipped(self, method: Method, combined: Combined) -> ClippedGradient:
        """Return the gradient of a network as `agent.own_gradients` scales and clips it."""
        own, convention = combined.own, self.convention
        of_the_sum = convention.scale != "none" or convention.weighs_own(
            method, combined.diagnostics
        )
        if self.config.own_gradients == "mean" and not of_the_sum:
            own = {name: gradient / self.tasks for name, gradient in own.items()}
        apart = self.config.own_gradients == "apart"
        return clip_by_norm(combined.direction, own, self.config.max_gradient_norm, apart)

    @property
    def log_temperature(self) -> Tensor:
        """Logarithm of the entropy coefficients, `[S, K]`."""
        return self.temperature.own["log_temperature"]

    def bellman_targets(self, batch: Batch, noise: Noise, temperature: Tensor) -> Tensor:
        """Return the critics' targets, `[S, K, B]`; see `SACLosses.bellman_targets`."""
        return self._targets_of_all(
            (self.actor.shared, self.critics.shared, self.target_critics),
            (self.actor.own, self.critics.own, self.target_own),
            batch.next_observations,
            noise.next_actions,
            temperature,
            batch.rewards,
            batch.terminated,
            *(() if batch.discounts is None else (batch.discounts,)),
        )

    def loss_of_critics(self, batch: Batch, targets: Tensor) -> BatchLoss:
        """Return the critics' loss on a batch with these Bellman targets `[S, K, B]`."""
        inputs = batch.observations, batch.actions, targets
        return BatchLoss(self.critic_loss, self.critics, inputs)

    def loss_of_actor(self, batch: Batch, noise: Tensor, temperature: Tensor) -> BatchLoss:
        """Return the actor's loss on a batch, for its actions' noise and `[S, K]` temperatures."""
        inputs = self.critics.own, batch.observations, noise, temperature
        return BatchLoss(self.actor_loss, self.actor, inputs, self.critics.shared)

    def _target_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the target critics' parameters and the critics' in the same order, `[S, ...]`."""
        critics = [self.critics.shared[name] for name in self.target_critics]
        critics += [self.critics.own[name] for name in self.target_own]
        return [*self.target_critics.values(), *self.target_own.values()], critics

    @torch.no_grad()
    def conflicts(self, batch: Batch, noise: Noise) -> Tensors:
        """Compute what no method need know, for the log, without an update.

        Args:
            batch: of an update.
            noise: of the same update, including the actor's.

        Returns:
            For the critics and the actor:

            * `critic/gramian`, `actor/gramian` `[S, K, K]`;
            * `critic/signal`, `actor/signal` `[S, K]`, if batches have halves: the share of a task
              gradient's squared length that is no noise of the batch, estimated without bias from
              the halves (see `weighting.half_batches`); it may lie outside of [0, 1].
        """
        assert noise.actions is not None
        temperature = self.log_temperature.exp()
        targets = self.bellman_targets(batch, noise, temperature)
        losses = {
            "critic": self.loss_of_critics(batch, targets),
            "actor": self.loss_of_actor(batch, noise.actions, temperature),
        }
        entries: Tensors = {}
        split = batch.rewards.shape[-1] % 2 == 0
        for network, loss in losses.items():
            products = gramian(loss.gradients(halves=split).jacobian, 1)
            if split:
                whole = whole_gramian(products)
                entries[f"{network}/signal"] = ratio_of_squares(unbiased_gramian(products), whole)
                products = whole
            entries[f"{network}/gramian"] = products
        return entries

    @torch.no_grad()
    def reset(self, number: int) -> None:
        """Re-initialise networks, targets, optimisers, temperatures and methods in place.

        Counters continue, and stopped seeds are not reset. Periodic resets counter the overfitting
        to early experience (Nikishin et al., 2022).

        Args:
            number: counts resets from 1; with a seed, it determines the seed's new networks.
        """
        fresh = self._initial_parameters(number, self.log_temperature.dtype)
        trained = self.actor, self.critics, self.temperature
        with preserve_rows(
            self.guard.stopped, [tensor for part in trained for tensor in part.tensors()]
        ):
            for part, parameters in zip(trained, fresh, strict=True):
                part.restart(parameters)
        targets, critics = self._target_pairs()
        with preserve_rows(self.guard.stopped, targets):
            for target, critic in zip(targets, critics, strict=True):
                target.copy_(critic)
        self.critic_method.reset()
        self.actor_method.reset()

    def stop(self, diverged: Tensor) -> None:
        """Stop training seeds whose actions for some tasks, `[S, K]` bool, are not finite."""
        self.guard.stop(diverged.to(self.device), self.updates)

    def faults(self) -> FaultCounts:
        """Return the faults of all updates so far."""
        return self.guard.faults()

    # ---- persistence ----

    def state(self) -> Tensors:
        """Return everything the agent needs to continue, as flat named tensors."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "actor": self.actor.state(),
            "critics": self.critics.state(),
            "temperature": self.temperature.state(),
            "targets": {**self.target_critics, **self.target_own},
            "critic_method": self.critic_method.state_dict(),
            "actor_method": self.actor_method.state_dict(),
            "guard": self.guard.state(),
            "rates": self.rates.state(),
            "observations": {} if self.observations is None else self.observations.state(),
        }
        return {**flatten(parts), "updates": self.updates}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned for an agent of the same configuration.

        Raises:
            ValueError: the state belongs to another configuration.
        """
        check_parts(state, self.state())
        self.actor.load_state(part_of(state, "actor"))
        self.critics.load_state(part_of(state, "critics"))
        self.temperature.load_state(part_of(state, "temperature"))
        targets = {**self.target_critics, **self.target_own}
        for name, target in part_of(state, "targets").items():
            targets[name].copy_(target)
        self.critic_method.load_state_dict(part_of(state, "critic_method"))
        self.actor_method.load_state_dict(part_of(state, "actor_method"))
        self.updates.copy_(state["updates"])
        self.guard.load_state(part_of(state, "guard"))
        self.rates.load_state(part_of(state, "rates"))
        if self.observations is not None:
            self.observations.load_state(part_of(state, "observations"))
