"""How many updates each vector step of a run makes, and the whole run; which update the actor."""

from __future__ import annotations

import math

from mtrl_fairgrad.config.agent import AgentConfig


def updates_due(agent: AgentConfig, env_steps: int, copies: int = 1) -> int:
    """Number of updates during the vector step that follows `env_steps`.

    0 before the end of the warm-up, at least `warmup_updates` right after it, and
    `updates_per_step` for each vector step on average.

    Args:
        agent: the agent's options.
        env_steps: transitions of each task so far, a multiple of `copies`.
        copies: transitions of each task that a vector step adds.
    """
    before = _vector_steps(env_steps, copies) - _vector_steps(agent.warmup_steps, copies)
    if before < 0:
        return 0
    ratio = agent.updates_per_step
    usual = math.floor((before + 1) * ratio) - math.floor(before * ratio)
    return usual if before else max(usual, agent.warmup_updates)


def updates_of_run(agent: AgentConfig, steps: int, copies: int = 1) -> int:
    """Number of updates of a run that ends when `steps` env_steps are reached or passed."""
    learning = _vector_steps(steps, copies) - _vector_steps(agent.warmup_steps, copies)
    if learning < 1:
        return 0
    first = math.floor(agent.updates_per_step)
    return math.floor(learning * agent.updates_per_step) + max(agent.warmup_updates - first, 0)


def updates_actor(agent: AgentConfig, update: int) -> bool:
    """Whether actor and temperatures take part in the update with this number, from 0.

    The last of every `actor_every` updates, as in TD3 (Fujimoto et al., 2018).
    """
    return (update + 1) % agent.actor_every == 0


def _vector_steps(env_steps: int, copies: int) -> int:
    """Number of vector steps after which `env_steps` are reached or passed."""
    return -(-env_steps // copies)
