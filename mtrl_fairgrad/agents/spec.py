"""What an agent is told: its hyper-parameters, and the numbers that each update takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from mtrl_fairgrad.agents.networks import NetworkSpec


@dataclass(frozen=True)
class SACSpec:
    """Hyper-parameters of the learner, defaults as in the Meta-World+ baselines."""

    network: NetworkSpec
    discount: float = 0.99
    reward_scale: float = 1.0
    """Multiplies every reward the critics see, and so all values; returns are reported unscaled."""
    polyak: float = 0.005
    learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    adam_epsilon: float = 1e-5
    max_gradient_norm: float | None = 1.0
    """Clips the combined gradient of each seed's actor and critics; `None` leaves it alone."""
    initial_temperature: float = 1.0
    target_entropy: float | None = None
    """`None`: minus the number of action dimensions."""
    temperature: str = "per_task"
    """`"per_task"`, or `"shared"`: one for all tasks of a seed, moved by the plain mean of their
    gradients.
    """


class Noise(NamedTuple):
    """The numbers of one update, drawn outside it."""

    next_actions: Tensor
    """Standard normal `[S, K, B, A]`, for the actions of the critics' targets."""
    actions: Tensor
    """Standard normal `[S, K, B, A]`, for the actions of the actor's loss."""
    critic_method: Tensor | None = None
    actor_method: Tensor | None = None
    """What the methods' `draw` returned."""
