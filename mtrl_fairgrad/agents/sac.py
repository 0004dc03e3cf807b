"""Multi-task soft actor-critic (Haarnoja et al., 2018), all seeds stacked, task gradients combined
by a method.

Each of the `losses` is written for one task of one seed; `mtrl_fairgrad.gradients.per_task.combine`
lifts it over both axes. Parameters that tasks share receive the combined direction, a task's own
ones (heads, embedding, temperature) its own gradient. The update has fixed shapes, draws no numbers
and never waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtrl_fairgrad.agents import networks
from mtrl_fairgrad.agents.guard import FaultCounts, Guard, kept
from mtrl_fairgrad.agents.networks import Parameters, Tensors
from mtrl_fairgrad.agents.optimizer import OptimizedParameters, clip_by_norm
from mtrl_fairgrad.agents.policy import PolicyModule, by_network, for_acting, merge, mode, split
from mtrl_fairgrad.agents.replay_buffer import Batch
from mtrl_fairgrad.agents.rng import derived_seed
from mtrl_fairgrad.agents.sac_losses import Losses, recordable
from mtrl_fairgrad.agents.spec import Noise, SACSpec
from mtrl_fairgrad.config.guard import LS, GuardConfig
from mtrl_fairgrad.gradients.conventions import PLAIN, Convention
from mtrl_fairgrad.gradients.per_task import combine, lift, over_seeds, task_gradients
from mtrl_fairgrad.weighting import Method, gramian


class SAC:
    """The agent of S seeds and K tasks.

    Args:
        spec: hyper-parameters.
        seeds: the run's seeds; seed s initialises its networks from its own generator.
        tasks: K.
        critic_method: combines the critics' task gradients.
        actor_method: combines the actor's task gradients; another instance, since methods may have
            state.
        device: where parameters live.
        dtype: of parameters and arithmetic.
        convention: what the methods' answers become before clipping; see
            `mtrl_fairgrad.gradients.conventions`.
        compile: whether task gradients and targets go through `torch.compile`.
        guard: what is done when an update goes wrong; by default a seed with a loss that is no
            number learns no more.

    Raises:
        ValueError: an actor's method that needs positive losses.
    """

    def __init__(
        self,
        spec: SACSpec,
        seeds: Sequence[int],
        tasks: int,
        critic_method: Method,
        actor_method: Method,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        convention: Convention = PLAIN,
        compile: bool = False,
        guard: GuardConfig | None = None,
    ) -> None:
        if actor_method.needs_positive_losses:
            raise ValueError(
                "actor_method needs positive losses, and an actor's may be negative: give another, "
                "such as "
                'LS(reduction="mean").'
            )
        self.spec, self.seeds, self.tasks, self.device = (
            spec,
            tuple(seeds),
            tasks,
            torch.device(device),
        )
        self._convention, self.losses = convention, Losses(spec)
        self._critic_loss, self._actor_loss, self._targets = recordable(spec, compile)
        actor, critics, temperature = self._untrained(0, dtype)
        self.actor, self.critics = (
            OptimizedParameters(n, spec.learning_rate, spec.adam_epsilon) for n in (actor, critics)
        )
        self.temperature = OptimizedParameters(
            temperature, spec.temperature_learning_rate, spec.adam_epsilon
        )
        self.target_critics, self.target_own = (
            {name: v.clone() for name, v in group.items()} for group in critics
        )

        def ready(method: Method, shared: Tensors) -> Method:
            rows = {
                name: value.unsqueeze(1).expand(-1, tasks, *value.shape[1:])
                for name, value in shared.items()
            }
            return method.init(tasks, (len(self.seeds),), rows).to(self.device)

        self.critic_method = ready(critic_method, critics.shared)
        self.actor_method = ready(actor_method, actor.shared)
        self._networks = {
            "critic": (self.critics, self.critic_method, "critic/value"),
            "actor": (self.actor, self.actor_method, "entropy"),
        }
        """What each learns with, and what its loss returns beside its value."""
        self.updates = torch.zeros((), dtype=torch.int64, device=self.device)
        guard = guard or GuardConfig()
        self.guard = Guard(guard, len(self.seeds), tasks, self.device)
        self._fall_back = guard.unsolved == LS
        self._target_entropy = (
            -spec.network.action_dim if spec.target_entropy is None else spec.target_entropy
        )

    def _untrained(
        self, number: int, dtype: torch.dtype
    ) -> tuple[Parameters, Parameters, Parameters]:
        """Actor, critics and temperatures of all seeds as reset `number` makes them; 0 is the
        beginning.
        """
        actors, critics = [], []
        for seed in self.seeds:
            start = derived_seed(seed, 2, number) if number else seed
            generator = torch.Generator().manual_seed(start)
            actors.append(networks.init_actor(self.spec.network, self.tasks, generator))
            critics.append(networks.init_critics(self.spec.network, self.tasks, generator))
        shape, device = (len(self.seeds), self.tasks), self.device
        temperature = torch.full(
            shape, self.spec.initial_temperature, device=device, dtype=dtype
        ).log()
        actor, critic = (networks.stack_seeds(each, device, dtype) for each in (actors, critics))
        return actor, critic, Parameters({}, {"log_temperature": temperature})

    @torch.no_grad()
    def reset(self, number: int) -> None:
        """Begin anew, in place: networks, targets, optimisers, temperatures and what the methods
        remember.

        The counters go on; what the guard stopped stays. Periodic resets free an agent from what it
        learnt too early (Nikishin et al., 2022).

        Args:
            number: which reset this is, from 1; each seed's new networks follow from the seed and
                this alone.
        """
        fresh = self._untrained(number, self.temperature.own["log_temperature"].dtype)
        learned = self.actor, self.critics, self.temperature
        with kept(self.guard.stopped, [tensor for each in learned for tensor in each.tensors()]):
            for each, parameters in zip(learned, fresh, strict=True):
                each.restart(parameters)
        self._move_targets(1.0, self.guard.stopped)
        self.critic_method.reset()
        self.actor_method.reset()

    # ---- acting ----

    @torch.no_grad()
    def act(
        self, observations: Tensor, noise: Tensor | None = None, policy: Tensors | None = None
    ) -> Tensor:
        """Actions `[S, K, A]` for observations `[S, K, O]`: sampled with `noise` `[S, K, A]`, else
        the mode.

        With `policy`, they are those of the agent of which it is the `policy`, bit for bit.
        """
        drawn = () if noise is None else (noise,)
        shared, own = (self.actor.shared, self.critics.shared), (self.actor.own, self.critics.own)
        if policy is not None:
            shared, own = map(by_network, split(policy, "shared", "own"))
        # Without own parameters the tasks are a batch like any other, which takes a third of the
        # time.
        lifted = (
            lift(self.losses.action, per_seed=1) if any(own) else over_seeds(self.losses.action)
        )
        return lifted(shared, own, observations, *drawn)

    def policy(self) -> Tensors:
        """A copy of all parameters that acting needs, of all seeds: `shared.*` `[S, ...]`, `own.*`
        `[S, K, ...]`.
        """
        shared = for_acting(self.actor.shared, self.critics.shared)
        own = for_acting(self.actor.own, self.critics.own)
        return {
            name: value.detach().clone() for name, value in merge(shared=shared, own=own).items()
        }

    def policy_module(self, seed: int) -> PolicyModule:
        """The policy of the seed at place `seed` (0 … S − 1) with a copy of its parameters, for
        export.
        """
        shared, own = split(self.policy(), "shared", "own")
        return PolicyModule(
            partial(mode, self.losses),
            {name: value[seed] for name, value in shared.items()},
            {name: value[seed] for name, value in own.items()},
        )

    # ---- learning ----

    @torch.no_grad()
    def update(self, batch: Batch, noise: Noise) -> Tensors:
        """One gradient step of everything; metrics stay on the device.

        Returns:
            `critic/loss`, `actor/loss`, `critic/value`, `entropy`, `temperature` `[S, K]`; per
            network `gradient_norm` `[S]`, `weights` `[S, K]`, `gramian` `[S, K, K]` where the
            method built one, and whatever else the method reports, under `critic/` and `actor/`.
        """
        # Compute targets.
        temperature = self.temperature.own["log_temperature"].exp()
        targets = self._compute_targets(batch, noise, temperature)
        metrics = {"temperature": temperature}
        # Update critics.
        problem = self._critic_problem(batch, targets)
        left_out = self._improve(
            "critic", problem, noise.critic_method, metrics, torch.zeros_like(self.guard.stopped)
        )
        # Update actor.
        problem = self._actor_problem(batch, noise, temperature)
        left_out = self._improve("actor", problem, noise.actor_method, metrics, left_out)
        # Update temperatures: each task's own −log(temperature)·(target entropy − entropy), by its
        # plain gradient.
        surplus = metrics["entropy"] - self._target_entropy
        # kept as K equal entries, which equal gradients keep equal
        if self.spec.temperature == "shared":
            surplus = surplus.mean(-1, keepdim=True).expand_as(surplus)
        self.temperature.step({}, {"log_temperature": surplus}, left_out)
        # Update targets.
        self._move_targets(self.spec.polyak, left_out)
        self.updates += 1
        return metrics

    def _compute_targets(self, batch: Batch, noise: Noise, temperature: Tensor) -> Tensor:
        return self._targets(
            (self.actor.shared, self.critics.shared, self.target_critics),
            (self.actor.own, self.critics.own, self.target_own),
            batch.next_observations,
            noise.next_actions,
            temperature,
            batch.rewards,
            batch.terminated,
        )

    def _move_targets(self, share: float, left_out: Tensor) -> None:
        """Let this share of the critics flow into their targets, 1 makes them equal; not of the
        seeds `left_out`.
        """
        groups = (self.target_critics, self.critics.shared), (self.target_own, self.critics.own)
        with kept(left_out, [target for targets, _ in groups for target in targets.values()]):
            for targets, critics in groups:
                for name, target in targets.items():
                    target.lerp_(critics[name], share)

    def _improve(
        self,
        network: str,
        problem: tuple[Any, ...],
        noise: Tensor | None,
        metrics: Tensors,
        left_out: Tensor,
    ) -> Tensor:
        """One step of `critic` or `actor`, except for the seeds `left_out` `[S]`; returns them and
        those it found.
        """
        learned, method, auxiliary = self._networks[network]
        with self.guard.watching(method) as forgotten:
            loss, shared, context, own, *inputs = problem
            combined = combine(
                method,
                loss,
                shared,
                *inputs,
                own=own,
                context=context,
                noise=noise,
                convention=self._convention,
                fall_back=self._fall_back,
            )
            shared, own, norm = clip_by_norm(
                combined.direction, combined.own, self.spec.max_gradient_norm
            )
            reported = {"loss": combined.losses, "gradient_norm": norm, **combined.diagnostics}
            metrics |= {f"{network}/{key}": value for key, value in reported.items()}
            metrics[auxiliary] = combined.auxiliary
            left_out = left_out | self.guard.look(network, metrics, self.updates)
            learned.step(shared, own, left_out)
            # at the losses of the same problem, now that parameters have moved
            if method.looks_after_step:
                method.after_step(lift(loss, per_seed=2)(*problem[1:])[0])
            forgotten.append(left_out)
        return left_out

    def _critic_problem(self, batch: Batch, targets: Tensor) -> tuple[Any, ...]:
        """Loss, parameters and data of the critics, as `combine` and `task_gradients` take them."""
        learned = self.critics
        return (
            self._critic_loss,
            learned.shared,
            {},
            learned.own,
            batch.observations,
            batch.actions,
            targets,
        )

    def _actor_problem(self, batch: Batch, noise: Noise, temperature: Tensor) -> tuple[Any, ...]:
        """The same of the actor."""
        actor, critics = self.actor, self.critics
        data = critics.own, batch.observations, noise.actions, temperature
        return self._actor_loss, actor.shared, critics.shared, actor.own, *data

    @torch.no_grad()
    def conflicts(self, batch: Batch, noise: Noise) -> Tensors:
        """Gramians `[S, K, K]` of critics and actor on a batch, without an update, for methods that
        build none.
        """
        temperature = self.temperature.own["log_temperature"].exp()
        targets = self._compute_targets(batch, noise, temperature)
        found: Tensors = {}
        for network, problem in (
            ("critic", self._critic_problem(batch, targets)),
            ("actor", self._actor_problem(batch, noise, temperature)),
        ):
            loss, shared, context, own, *inputs = problem
            gradients = task_gradients(loss, shared, *inputs, own=own, context=context)
            found[f"{network}/gramian"] = gramian(gradients.jacobian, 1)
        return found

    def faults(self) -> FaultCounts:
        """What went wrong so far."""
        return self.guard.faults()

    # ---- persistence ----

    def state(self) -> Tensors:
        """Everything the agent needs to go on, as flat named tensors."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "actor": self.actor.state(),
            "critics": self.critics.state(),
            "temperature": self.temperature.state(),
            "targets": {**self.target_critics, **self.target_own},
            "critic_method": self.critic_method.state_dict(),
            "actor_method": self.actor_method.state_dict(),
            "guard": self.guard.state(),
        }
        flat = {
            f"{part}/{name}": value
            for part, state in parts.items()
            for name, value in state.items()
        }
        return {**flat, "updates": self.updates}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned for an agent of the same configuration.

        Raises:
            ValueError: the state belongs to an agent of another shape.
        """
        # Optimisers have no moments before their first step; a method's own are state like any
        # other.
        moments = tuple(f"{part}/adam." for part in ("actor", "critics", "temperature"))

        def named(keys: Iterable[str]) -> set[str]:
            return {key for key in keys if not key.startswith(moments)}

        trained = bool(state.get("updates", torch.zeros(())) > 0)
        if named(state) != named(self.state()) or trained != any(
            key.startswith(moments) for key in state
        ):
            raise ValueError(
                "the checkpoint does not hold the parts of this agent: use the configuration the "
                "run was started with."
            )

        def part(name: str) -> Tensors:
            prefix = f"{name}/"
            return {
                key.removeprefix(prefix): value
                for key, value in state.items()
                if key.startswith(prefix)
            }

        self.actor.load_state(part("actor"))
        self.critics.load_state(part("critics"))
        self.temperature.load_state(part("temperature"))
        targets = {**self.target_critics, **self.target_own}
        for name, target in part("targets").items():
            targets[name].copy_(target)
        self.critic_method.load_state_dict(part("critic_method"))
        self.actor_method.load_state_dict(part("actor_method"))
        self.updates.copy_(state["updates"])
        self.guard.load_state(part("guard"))
