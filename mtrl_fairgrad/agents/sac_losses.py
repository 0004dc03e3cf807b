"""The equations of soft actor-critic (Haarnoja et al., 2018), for one task of one seed.

Shared and own parameters come separately, because `torch.func` lifts them over tasks differently:
all tasks of a seed see the same shared parameters, each task its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mtrl_fairgrad.agents import networks
from mtrl_fairgrad.agents.critics import Critic, make_critic
from mtrl_fairgrad.agents.networks import DEFAULT, Apply, Computation, LogStd, Tensors, mlp
from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.gradients.graph_capture import CapturedFunction, Compile
from mtrl_fairgrad.gradients.per_task import CapturedLoss, lift

PerNetwork = tuple[Tensors, ...]
"""Either the shared or the own parameters of several networks, a mapping for each network."""


@dataclass(frozen=True)
class SACLosses:
    """Losses, Bellman targets and action.

    The action has the default computation, so that it is the same in training and evaluation up to
    rounding.
    """

    discount: float
    reward_scale: float
    log_std: LogStd
    twin_loss: str
    """See `AgentConfig`, like discount and reward scale."""
    critic: Critic
    computation: Computation = DEFAULT
    """Of losses and targets."""
    actor_network: Apply = mlp
    critic_network: Apply = mlp

    @classmethod
    def from_config(
        cls,
        config: AgentConfig,
        precision: str = "fp32",
        on_gpu: bool = False,
        sizes: tuple[int, int] = (0, 0),
    ) -> SACLosses:
        """Take the hyper-parameters that the equations depend on.

        Args:
            config: the agent's.
            precision: `"fp32"`, `"bf16"` or `"tf32"`, which is a setting of the process.
            on_gpu: whether losses and targets are computed on a GPU.
            sizes: O and A, which a registered network depends on.
        """
        dtype = torch.bfloat16 if precision == "bf16" else None
        computation = Computation(dtype, at_once=on_gpu)
        return cls(
            config.discount,
            config.reward_scale,
            LogStd(config.log_std, config.log_std_min, config.log_std_max),
            config.twin_loss,
            make_critic(config),
            computation,
            networks.custom_actor(config, *sizes) or mlp,
            networks.custom_critic(config, *sizes) or mlp,
        )

    def critic_loss(
        self,
        critics: Tensors,
        context: Tensors,
        own: Tensors,
        observations: Tensor,
        actions: Tensor,
        targets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Squared error (Q(s, a) − target)² or cross-entropy, averaged over the batch.

        Over both critics it is averaged or, with `twin_loss="sum"`, summed.

        Args:
            critics: shared parameters.
            context: not used.
            own: the task's own parameters of the critics.
            observations: `[B, O]`.
            actions: `[B, A]`.
            targets: `[B]`, or distributions `[B, n]`.

        Returns:
            the loss and the mean Q.
        """
        critics = {**critics, **own}
        inputs = networks.with_encoding(critics, observations)
        outputs = self._values(critics, inputs, actions)
        errors, values = self.critic.errors(outputs, targets)
        loss = errors.mean(-1).sum() if self.twin_loss == "sum" else errors.mean()
        return loss, values.mean()

    def actor_loss(
        self,
        actor: Tensors,
        critics: Tensors,
        own: Tensors,
        critics_own: Tensors,
        observations: Tensor,
        noise: Tensor,
        temperature: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """E[temperature · log π(a|s) − Q(s, a)] with a from the policy.

        Q is the minimum or the mean of both critics.

        Only the actor's parameters are differentiated: the task encoder belongs to the critics.

        Args:
            actor: shared parameters.
            critics: shared parameters of the critics.
            own: the task's own parameters of the actor.
            critics_own: the task's own parameters of the critics.
            observations: `[B, O]`.
            noise: standard normal, `[B, A]`.
            temperature: `[]`.

        Returns:
            the loss and the policy's entropy.
        """
        actor, critics = {**actor, **own}, {**critics, **critics_own}
        inputs = networks.with_encoding(critics, observations)
        actions, log_density = self._sample(actor, inputs, noise)
        outputs = self._values(critics, inputs, actions)
        value = self.critic.value(outputs)
        return (temperature * log_density - value).mean(), -log_density.mean()

    def bellman_targets(
        self,
        shared: PerNetwork,
        own: PerNetwork,
        next_observations: Tensor,
        noise: Tensor,
        temperature: Tensor,
        rewards: Tensor,
        terminated: Tensor,
        *discounts: Tensor,
    ) -> Tensor:
        """Bellman targets scale·r + γ·(Q'(s', a') − temperature · log π(a'|s')), a' ~ π(s').

        The value of the next state counts unless the task terminated; a time limit is not a
        termination. The target critics use their own slow copy of the task encoder, the policy uses
        the critics' encoder, as when it acts.

        Args:
            shared: parameters of actor, critics and target critics.
            own: this task's own parameters of the same three networks.
            next_observations: `[B, O]`.
            noise: standard normal, `[B, A]`.
            temperature: `[]`.
            rewards: `[B]`.
            terminated: `[B]`, 1 or 0.
            discounts: of the next states' values, `[B]`, or nothing for γ.

        Returns:
            `[B]`, or distributions `[B, n]`.
        """
        actor, critics, targets = _join(shared, own)
        inputs = networks.with_encoding(critics, next_observations)
        actions, log_density = self._sample(actor, inputs, noise)
        inputs = networks.with_encoding(targets, next_observations)
        outputs = self._values(targets, inputs, actions)
        discount = discounts[0] if discounts else self.discount
        return self.critic.targets(
            outputs,
            temperature * log_density,
            self.reward_scale * rewards,
            discount * (1 - terminated),
            self.computation.at_once,
        )

    def action(
        self, shared: PerNetwork, own: PerNetwork, observations: Tensor, *noise: Tensor
    ) -> Tensor:
        """Return actions `[..., A]`: sampled if there is noise, else the mode.

        Args:
            shared: parameters of the actor and of the critics, whose task encoder it uses.
            own: this task's own parameters of the same two networks.
            observations: `[..., O]`, of one task, or of several if no task has own parameters.
            noise: standard normal, `[..., A]`, or nothing.
        """
        actor, critics = _join(shared, own)
        inputs = networks.with_encoding(critics, observations)
        mean, log_stds = networks.policy(actor, inputs, self.log_std, network=self.actor_network)
        return (mean + log_stds.exp() * noise[0] if noise else mean).tanh()

    def _sample(self, actor: Tensors, inputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return sampled actions and their log-densities, see `networks.sample`."""
        return networks.sample(
            actor, inputs, noise, self.log_std, self.computation, self.actor_network
        )

    def _values(self, critics: Tensors, inputs: Tensor, actions: Tensor) -> Tensor:
        """Return the outputs of both critics, see `networks.critic_outputs`."""
        return networks.critic_outputs(
            critics, inputs, actions, self.computation, self.critic_network
        )


def _join(shared: PerNetwork, own: PerNetwork) -> tuple[Tensors, ...]:
    """Return each network's shared and own parameters in one mapping."""
    return tuple({**group, **extra} for group, extra in zip(shared, own, strict=True))


class CapturedLosses(NamedTuple):
    """The equations lifted over seeds and tasks, captured once per shape."""

    critic_loss: CapturedLoss
    actor_loss: CapturedLoss
    bellman_targets: CapturedFunction


@cache
def captured_losses(losses: SACLosses, compile: Compile) -> CapturedLosses:
    """Return the captured equations, shared by all agents with the same hyper-parameters."""
    targets = CapturedFunction(lift(losses.bellman_targets, per_seed=1), compile=compile)
    return CapturedLosses(
        CapturedLoss(losses.critic_loss, compile), CapturedLoss(losses.actor_loss, compile), targets
    )
