"""The agent's part of the configuration, and its checks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mtrl_fairgrad.utils.validation import ConfigError, one_of, positive, within

WORDS = {
    "initialization": ("he", "xavier"),
    "log_std": ("clamp", "tanh"),
    "temperature": ("per_task", "shared"),
    "reward_normalization": ("none", "running_std"),
}
"""Options that choose among words."""


@dataclass
class AgentConfig:
    """Soft actor-critic for many tasks; defaults as in the Meta-World+ baselines."""

    name: str = "mtsac"
    """mtsac: tasks share everything; mtsac_te: and a task encoder; mhsac: each has a head; stl:
    each has an agent.
    """
    width: int = 400
    """Units of each hidden layer."""
    critic_width: int | None = None
    """Units of each hidden layer of the critics; null: width."""
    depth: int = 3
    """Hidden layers; mhsac adds two, one to the trunk and one to each head."""
    critic_layer_norm: bool = False
    """LayerNorm after each hidden linear layer of the critics."""
    initialization: str = "he"
    """he: He-uniform with near-zero heads; xavier: Xavier-uniform throughout, zero biases, as the
    paper's code.
    """
    log_std: str = "clamp"
    """How the policy's log-std stays within −20 … 2: clamp, or tanh, which squashes it, as the
    paper's code.
    """
    batch_size: int = 128
    """Transitions of EACH task in an update."""
    buffer_size: int = 100_000
    """Transitions of EACH task that are remembered."""
    warmup_steps: int = 4_000
    """Vector steps of uniformly random actions before the first update."""
    warmup_updates: int = 0
    """Updates at once in the step after them, if more than usual; the paper's code: 1500."""
    updates_per_step: float = 1.0
    """Updates per vector step; below 1, some steps have none."""
    reset_every: int | None = None
    """Updates until all but the replay begins anew (Nikishin et al., 2022: 200,000); null: never.
    """
    discount: float = 0.99
    """γ."""
    reward_scale: float = 1.0
    """Multiplies every reward the critics see; Meta-World's are 0 to 10 a step."""
    reward_normalization: str = "none"
    """none, or running_std: divide each task's rewards by their running standard deviation, as the
    paper's code.
    """
    polyak: float = 0.005
    """Share of the critics that flows into their targets at each update."""
    learning_rate: float = 3e-4
    """Adam, actor and critics."""
    temperature_learning_rate: float = 3e-4
    """Adam, temperatures."""
    adam_epsilon: float = 1e-5
    """Adam's denominator term."""
    max_gradient_norm: float | None = 1.0
    """Clips each seed's combined gradient; null: no clipping."""
    temperature: str = "per_task"
    """SAC's entropy coefficient: per_task, or shared by all, moved by the mean of their gradients.
    """
    initial_temperature: float = 1.0
    """The entropy coefficient at the start."""
    target_entropy: float | None = None
    """null: minus the number of action dimensions."""


def check_agent(agent: AgentConfig) -> None:
    """Refuse what no agent can be made of.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    one_of("agent", agent.name, ("mtsac", "mtsac_te", "mhsac", "stl"))
    for name, allowed in WORDS.items():
        one_of(f"agent.{name}", getattr(agent, name), allowed)
    for name in ("width", "depth", "batch_size", "buffer_size", "warmup_steps"):
        within(f"agent.{name}", getattr(agent, name), 1)
    within("agent.warmup_updates", agent.warmup_updates, 0)
    for name in ("critic_width", "reset_every"):
        if (value := getattr(agent, name)) is not None:
            within(f"agent.{name}", value, 1)
    for name in ("reward_scale", "updates_per_step", "adam_epsilon", "initial_temperature"):
        positive(f"agent.{name}", getattr(agent, name))
    for name in ("learning_rate", "temperature_learning_rate"):
        positive(f"agent.{name}", getattr(agent, name))
    for name in ("discount", "polyak"):
        within(f"agent.{name}", getattr(agent, name), 0.0, 1.0)
    if agent.max_gradient_norm is not None:
        positive("agent.max_gradient_norm", agent.max_gradient_norm, "or null for no clipping")
    if agent.target_entropy is not None and not math.isfinite(agent.target_entropy):
        raise ConfigError(
            f"agent.target_entropy={agent.target_entropy} is not a number: give one, or null for "
            "−|A|."
        )
    if agent.batch_size > agent.buffer_size:
        raise ConfigError(
            f"agent.batch_size={agent.batch_size} exceeds agent.buffer_size={agent.buffer_size}: a "
            "task's batch is drawn from its buffer, so make the batch smaller or the buffer larger."
        )
    if agent.name == "stl" and agent.temperature == "shared":
        raise ConfigError(
            "agent.temperature=shared is one for all tasks but agent=stl trains each alone: drop "
            "one of them."
        )
