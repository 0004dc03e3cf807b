"""Configuration of the agent and its cross-field checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mtrl_fairgrad.config.networks import BUILT_IN, network_names
from mtrl_fairgrad.utils.validation import ConfigError, check_choice, option


class Architecture(NamedTuple):
    """Differences between the agents' networks; all observe the task id, too."""

    own_layers: int = 0
    """Task-specific last layers of actor and critics, on a shared trunk of `depth` + 1 layers."""
    encoding: int = 0
    """Width of the task encoder (task embedding, ReLU, shared perceptron); 0 for none."""


ARCHITECTURES = {
    "mtsac": Architecture(),
    "mtsac_te": Architecture(encoding=50),
    "mhsac": Architecture(own_layers=2),
    "stl": Architecture(),
}
"""By name of the agent; sizes as in MTRL (Sodhani & Zhang, 2021)."""


@dataclass
class AgentConfig:
    """Multi-task soft actor-critic; defaults of the Meta-World+ baselines (McLean et al., 2025)."""

    name: str = option(
        "mtsac",
        "Architecture. mtsac: tasks share everything; mtsac_te: with a task encoder; mhsac: one "
        "head per task; stl: an independent agent per task.",
        choices=tuple(ARCHITECTURES),
    )
    width: int = option(400, "Units of each hidden layer.", at_least=1)
    critic_width: int | None = option(
        None,
        "Units of each hidden layer of the critics; null: width. BRO (Nauman et al., 2024): 512.",
        at_least=1,
    )
    depth: int = option(
        3,
        "Hidden layers, or residual blocks of two layers (agent.network=bronet) after a first one; "
        "mhsac adds a hidden layer to each head and, without blocks, one to the trunk.",
        at_least=1,
    )
    network: str = option(
        "mlp",
        "Actor and critics. mlp: a perceptron; bronet (Nauman et al., 2024): residual blocks of "
        "linear, LayerNorm, ReLU, linear, LayerNorm; or the name of a registered network.",
    )
    critic_layer_norm: bool = option(
        False,
        "LayerNorm after each hidden linear layer of the critics, as in BRO; bronet always has it.",
    )
    initialization: str = option(
        "he",
        "he: He-uniform with near-zero output layers; xavier: Xavier-uniform with zero biases, as "
        "in the FairGrad paper's code.",
        choices=("he", "xavier"),
    )
    log_std: str = option(
        "clamp",
        "How the policy's log standard deviation is kept in its range; "
        "tanh as in the FairGrad paper's code.",
        choices=("clamp", "tanh"),
    )
    log_std_min: float = option(
        -20.0,
        "Smallest log standard deviation of the policy; −5 in FastTD3's SAC (Seo et al., 2025), "
        "−10 in BRC (Nauman et al., 2025).",
        at_least=-50,
        at_most=10,
    )
    log_std_max: float = option(
        2.0, "Largest log standard deviation of the policy.", at_least=-50, at_most=10
    )
    batch_size: int = option(
        128, "Transitions per task in each update.", at_least=1, unit="transitions"
    )
    buffer_size: int = option(100_000, "Replay capacity per task.", at_least=1, unit="transitions")
    warmup_steps: int = option(
        4_000,
        "Transitions of each task with uniformly random actions before the first update.",
        at_least=1,
        unit="env_steps",
    )
    warmup_updates: int = option(
        0,
        "Updates done at once after the warm-up, if more than are due anyway; "
        "1500 in the FairGrad paper's code.",
        at_least=0,
        unit="updates",
    )
    updates_per_step: float = option(
        1.0, "Updates per vector step of all copies; below 1, some steps have none.", above=0
    )
    actor_every: int = option(
        1,
        "Actor and temperatures are updated in every n-th update, with the critics of that update "
        "(Fujimoto et al., 2018: 2), and the log shows these updates. Critics and target critics "
        "are updated in each.",
        at_least=1,
        unit="updates",
    )
    reset_every: int | None = option(
        None,
        "Updates between resets of networks and optimizers, which keep the replay buffer "
        "(Nikishin et al., 2022: 200000); null: never.",
        at_least=1,
        unit="updates",
    )
    discount: float = option(0.99, "Discount factor γ.", at_least=0, at_most=1)
    critic: str = option(
        "squared",
        "squared: critics of one value, squared error; categorical: distributions of returns on "
        "fixed atoms, cross-entropy (Bellemare et al., 2017), as in BRC and FastTD3.",
        choices=("squared", "categorical"),
    )
    atoms: int = option(
        101,
        "Atoms of the categorical critic, evenly spaced from −v_max to v_max; 101 in BRC.",
        at_least=2,
        at_most=10_000,
    )
    v_max: float = option(
        10.0,
        "Largest return after all scaling of rewards: range of the categorical critic, and aim of "
        "return_normalization; 10 in BRC.",
        above=0,
    )
    target: str = option(
        "min",
        "Which of both critics' values targets and actor use. min: the smaller one, against "
        "overestimation (Fujimoto et al., 2018), and with it its distribution; mean: their mean, "
        "or the mixture of their distributions, as in BRC.",
        choices=("min", "mean"),
    )
    twin_loss: str = option(
        "mean",
        "Critic loss of a task: mean of both twins' mean squared errors, as in the Meta-World+ "
        "baselines; or their sum, as in the FairGrad paper's code, which matters to methods that "
        "depend on the length of gradients, such as FairGrad with solver=sgd.",
        choices=("mean", "sum"),
    )
    reward_scale: float = option(
        1.0,
        "Factor on every reward that the critics see; Meta-World's rewards are 0 to 10 per step.",
        above=0,
    )
    reward_normalization: str = option(
        "none",
        "running_std: divide each task's rewards by their running standard deviation, "
        "as in the FairGrad paper's code.",
        choices=("none", "running_std"),
    )
    return_normalization: str = option(
        "none",
        "per_task: when a batch is sampled, divide rewards by the larger of their task's standard "
        "deviation of discounted returns and largest return over v_max, with room for the entropy "
        "bonus, as SimbaV2 (Lee et al., 2025) and BRC (Nauman et al., 2025); reward_scale "
        "multiplies the quotients.",
        choices=("none", "per_task"),
    )
    observation_normalization: str = option(
        "none",
        "running: subtract the running mean of observations and divide them by their standard "
        "deviation, over all tasks (stl: each its own), without the one-hot identity, as in "
        "FastTD3 (Seo et al., 2025).",
        choices=("none", "running"),
    )
    observation_normalization_steps: int | None = option(
        None,
        "Transitions per task after which observation_normalization keeps mean and deviation as "
        "they are; null: never.",
        at_least=1,
        unit="transitions",
    )
    n_step: int = option(
        1,
        "Largest number of steps whose rewards a Bellman target sums up before it takes the "
        "critics' value; a return ends with its episode. Rainbow (Hessel et al., 2018): 3.",
        at_least=1,
        unit="steps",
    )
    polyak: float = option(
        0.005,
        "Fraction of the critics that is mixed into the target critics at each update.",
        at_least=0,
        at_most=1,
    )
    optimizer: str = option(
        "adam",
        "adamw: weight decay is decoupled from the gradients (Loshchilov & Hutter, 2019), as in "
        "BRC (Nauman et al., 2025) and FastTD3 (Seo et al., 2025).",
        choices=("adam", "adamw"),
    )
    learning_rate: float = option(3e-4, "Learning rate of actor and critics.", above=0)
    temperature_learning_rate: float = option(
        3e-4, "Learning rate of the entropy coefficients.", above=0
    )
    learning_rate_end: float | None = option(
        None,
        "Learning rate after the last update of the run, to which learning_rate falls linearly; "
        "that of the entropy coefficients falls in proportion. A run that is "
        "extended stays at the end value. null: constant rates.",
        at_least=0,
    )
    beta1: float = option(
        0.9, "Decay rate of the optimizer's mean of gradients.", at_least=0, below=1
    )
    beta2: float = option(
        0.999,
        "Decay rate of the optimizer's mean of squared gradients. FastSAC (Seo et al., 2025): "
        "0.95.",
        at_least=0,
        below=1,
    )
    adam_epsilon: float = option(1e-5, "The optimizer's ε.", above=0)
    weight_decay: float = option(
        0.0,
        "With optimizer=adamw, all parameters of actor and critics shrink by learning rate · "
        "weight_decay at each step. BRC: 1e-4, FastSAC: 1e-3.",
        at_least=0,
    )
    max_gradient_norm: float | None = option(
        1.0, "Largest norm of each seed's combined gradient; null: no clipping.", above=0
    )
    own_gradients: str = option(
        "mean",
        "Gradients of a task's own parameters (heads of mhsac, embeddings of mtsac_te). mean: "
        "divided by the number of tasks, that of the mean loss, as in Meta-World+ and MTRL; apart: "
        "plain, with a norm of their own for max_gradient_norm, for methods whose direction is not "
        "on the scale of a mean; plain: plain, and counted in one norm. Where convention.own "
        "weights them, mean changes nothing.",
        choices=("mean", "apart", "plain"),
    )
    temperature: str = option(
        "per_task",
        "SAC's entropy coefficient: one per task, "
        "or one shared by all tasks and moved by the mean of their gradients.",
        choices=("per_task", "shared"),
    )
    temperature_loss: str = option(
        "log",
        "Loss of the entropy coefficient c: log: log(c)·(entropy − target), as in the Meta-World+ "
        "baselines; linear: c·(entropy − target), as in the FairGrad paper's code.",
        choices=("log", "linear"),
    )
    initial_temperature: float = option(1.0, "Initial entropy coefficient.", above=0)
    exploration_rate: float = option(
        0.0,
        "Probability per step with which a simulator begins to repeat a random action for 1 to 12 "
        "steps (temporally extended ε-greedy, Dabney et al., 2021). With env.copies only those of "
        "the second half explore. 0: the policy's actions alone.",
        at_least=0,
        at_most=1,
    )
    target_entropy: float | None = option(
        None, "Target entropy; null: minus the number of action dimensions.", unit="nats"
    )


def check_agent(agent: AgentConfig) -> None:
    """Check combinations of fields, each of which is valid by itself.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    _check_network(agent)
    if agent.batch_size > agent.buffer_size:
        raise ConfigError(
            f"agent.batch_size={agent.batch_size} exceeds agent.buffer_size={agent.buffer_size}: "
            "a task's batch is drawn from its buffer, "
            "so make the batch smaller or the buffer larger.",
            "agent.batch_size",
            agent.batch_size,
        )
    if agent.log_std_min >= agent.log_std_max:
        raise ConfigError(
            f"agent.log_std_min={agent.log_std_min:g} is not below "
            f"agent.log_std_max={agent.log_std_max:g}: make it smaller, or the largest one larger.",
            "agent.log_std_min",
            agent.log_std_min,
        )
    if agent.weight_decay and agent.optimizer != "adamw":
        raise ConfigError(
            f"agent.weight_decay={agent.weight_decay:g} needs agent.optimizer=adamw: "
            "set it, or leave out the weight decay.",
            "agent.weight_decay",
            agent.weight_decay,
        )
    if agent.learning_rate_end is not None and agent.learning_rate_end > agent.learning_rate:
        raise ConfigError(
            f"agent.learning_rate_end={agent.learning_rate_end:g} exceeds "
            f"agent.learning_rate={agent.learning_rate:g}, from which it falls: "
            "make it smaller, or null for a constant rate.",
            "agent.learning_rate_end",
            agent.learning_rate_end,
        )
    if agent.return_normalization != "none" and agent.reward_normalization != "none":
        raise ConfigError(
            f"agent.return_normalization={agent.return_normalization} and "
            f"agent.reward_normalization={agent.reward_normalization} both divide rewards by their "
            "size: set one of them to none.",
            "agent.return_normalization",
            agent.return_normalization,
        )
    if agent.name == "stl" and agent.temperature == "shared":
        raise ConfigError(
            "agent.temperature=shared needs tasks that share an agent, but agent=stl trains each "
            "task alone: drop one of them.",
            "agent.temperature",
            "shared",
        )


def _check_network(agent: AgentConfig) -> None:
    check_choice("agent.network", agent.network, network_names())
    if agent.network not in BUILT_IN and ARCHITECTURES[agent.name].own_layers:
        raise ConfigError(
            f"agent.network={agent.network} has no layers of a task's own, but agent={agent.name} "
            f"needs them: choose another agent, or one of {' and '.join(BUILT_IN)}.",
            "agent.network",
            agent.network,
        )
