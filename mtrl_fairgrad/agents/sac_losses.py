"""What soft actor-critic minimises and follows, each for one task of one seed (Haarnoja et al.,
2018).

Networks come as their shared and their own parameters, because these are lifted over the tasks
differently.
"""

from __future__ import annotations

from functools import cache

from torch import Tensor

from mtrl_fairgrad.agents import networks
from mtrl_fairgrad.agents.networks import Tensors
from mtrl_fairgrad.agents.spec import SACSpec
from mtrl_fairgrad.gradients.graph_capture import CapturedFunction
from mtrl_fairgrad.gradients.per_task import CapturedLoss, lift

Groups = tuple[Tensors, ...]
"""One group of parameters, shared or own, of several networks."""


def whole(shared: Groups, own: Groups) -> tuple[Tensors, ...]:
    """Each network's parameters in one mapping, as the functions of `networks` take them."""
    return tuple({**group, **mine} for group, mine in zip(shared, own, strict=True))


class Losses:
    """The losses of critics and actor, the critics' targets, and the action, for the
    hyper-parameters `spec`.
    """

    def __init__(self, spec: SACSpec) -> None:
        self.spec = spec

    def critics(
        self,
        critics: Tensors,
        context: Tensors,
        own: Tensors,
        obs: Tensor,
        actions: Tensor,
        targets: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Squared error of both critics against `targets` `[B]`, averaged over twins and batch, and
        the mean value.
        """
        (critics,) = whole((critics,), (own,))
        predictions = networks.values(critics, networks.with_encoding(critics, obs), actions)
        return (predictions - targets).square().mean(), predictions.mean()

    def actor(
        self,
        actor: Tensors,
        critics: Tensors,
        own: Tensors,
        critics_own: Tensors,
        obs: Tensor,
        noise: Tensor,
        temperature: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """E[temperature · log π(a|s) − min Q(s, a)], and the policy's entropy.

        Only `actor` and `own` are differentiated: the task encoder is the critics' and stays as
        they made it.
        """
        actor, critics = whole((actor, critics), (own, critics_own))
        seen = networks.with_encoding(critics, obs)
        actions, log_density = networks.sample(actor, seen, noise, self.spec.network)
        value = networks.values(critics, seen, actions).amin(0)
        return (temperature * log_density - value).mean(), -log_density.mean()

    def targets(
        self,
        shared: Groups,
        own: Groups,
        next_obs: Tensor,
        noise: Tensor,
        temperature: Tensor,
        rewards: Tensor,
        terminated: Tensor,
    ) -> Tensor:
        """Bellman targets, scale·r + γ·(min Q'(s', a') − temperature · log π(a'|s')), a' from the
        policy *at s'*.

        Nothing follows a termination. A time limit is no termination: the value of the state it cut
        off still counts. The targets look through their own slow copy of the task encoder (MTRL:
        the critics'), the policy through the critics', as when it acts.

        Args:
            shared: of actor, critics and targets.
            own: the same.
            next_obs: `[B, O]`.
            noise: standard normal `[B, A]`.
            temperature: `[]`.
            rewards: `[B]`.
            terminated: `[B]`.
        """
        actor, critics, targets = whole(shared, own)
        seen = networks.with_encoding(critics, next_obs)
        actions, log_density = networks.sample(actor, seen, noise, self.spec.network)
        seen = networks.with_encoding(targets, next_obs)
        value = networks.values(targets, seen, actions).amin(0) - temperature * log_density
        return self.spec.reward_scale * rewards + self.spec.discount * (1 - terminated) * value

    def action(self, shared: Groups, own: Groups, obs: Tensor, *noise: Tensor) -> Tensor:
        """The action `[..., A]` for `obs` `[..., O]`: sampled with `noise` `[..., A]`, else the
        mode.

        Args:
            shared: of the actor, and of the critics, whose task encoder it looks through.
            own: the same.
            obs: of one task, or of several where none has parameters of its own.
            noise: standard normal, or none.
        """
        actor, critics = whole(shared, own)
        seen = networks.with_encoding(critics, obs)
        if noise:
            return networks.sample(actor, seen, noise[0], self.spec.network)[0]
        return networks.policy(actor, seen, self.spec.network)[0].tanh()


@cache
def recordable(spec: SACSpec, compile: bool) -> tuple[CapturedLoss, CapturedLoss, CapturedFunction]:
    """Critics' loss, actor's loss and targets, lifted and ready to be recorded once for all agents
    of this kind.
    """
    losses = Losses(spec)
    targets = CapturedFunction(lift(losses.targets, per_seed=1), compile=compile)
    return CapturedLoss(losses.critics, compile), CapturedLoss(losses.actor, compile), targets
