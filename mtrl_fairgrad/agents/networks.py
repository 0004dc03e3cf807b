"""Actor and twin critics as pure functions of their parameters.

Parameters are mappings name -> tensor in two groups: *shared* by the tasks of a seed, or *own* to
each task (`Parameters`). The functions here compute one task of one seed and take both groups in
one mapping; `torch.func` lifts them over tasks and seeds. Which parameters exist decides what is
computed: architectures differ only in what `init_actor` and `init_critics` return.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mtrl_fairgrad.agents.critics import make_critic
from mtrl_fairgrad.agents.custom_networks import CustomNetwork, custom_network
from mtrl_fairgrad.agents.twin_products import product, stack_pairs
from mtrl_fairgrad.config.agent import ARCHITECTURES, AgentConfig

Tensors = dict[str, Tensor]
Apply = Callable[..., Tensor]
"""Computes a network of parameters, inputs, prefix and type, as `mlp` does."""
LayerNorm = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes inputs, scale and shift, as `layer_norm` does."""

TWINS = "first", "second"
"""Names of the two critics, before each of their parameters."""
ACTOR_HEAD_BOUND = 1e-3
CRITIC_HEAD_BOUND = 3e-3
"""Last layers start uniform in ± these bounds under `initialization="he"`, as in the Meta-World+
baselines: actions and values near zero.
"""
ENCODER_DEPTH = 2
"""Hidden layers of the task encoder, each as wide as the encoding."""


class Parameters(NamedTuple):
    """Parameters of one network by name; a leading `[S]` is added when seeds are stacked."""

    shared: Tensors
    """`[*shape]`, used by all tasks."""
    own: Tensors
    """`[K, *shape]`, one for each task."""


class Computation(NamedTuple):
    """How perceptrons are computed; results differ by rounding only."""

    dtype: torch.dtype | None = None
    """Floating-point type of the products between hidden layers; None for that of the parameters.
    The first layer keeps the digits of its inputs, the last one those of its results; both are
    cheap.
    """
    at_once: bool = False
    """Compute both critics by one batched product a layer. A GPU takes hardly longer for it than
    for one critic, a CPU no less than for one after the other. Distributions of returns are
    projected by dense operations, too.
    """


DEFAULT = Computation()


class LogStd(NamedTuple):
    """Range of the policy's log standard deviation, and how it is kept there."""

    bound: str = "clamp"
    """`"clamp"` or `"tanh"`, see `AgentConfig.log_std`."""
    low: float = -20.0
    high: float = 2.0

    def __call__(self, outputs: Tensor) -> Tensor:
        """Return the log standard deviations of the policy's outputs."""
        if self.bound == "tanh":
            return self.low + (self.high - self.low) / 2 * (outputs.tanh() + 1)
        return outputs.clamp(self.low, self.high)


# ---- initialisation ----


def init_mlp(
    sizes: Sequence[int],
    generator: torch.Generator,
    initialization: str = "he",
    head_bound: float | None = None,
    layer_norm: bool = False,
    blocks: int = 0,
    own_layers: int = 0,
    tasks: int = 1,
) -> Parameters:
    """Initialise a ReLU perceptron with zero biases.

    Weights are He-uniform (He et al., 2015) or Xavier-uniform (Glorot & Bengio, 2010).

    Args:
        sizes: widths of input, hidden layers and output.
        generator: one seed's CPU generator.
        initialization: `"he"` or `"xavier"`.
        head_bound: under `"he"`, weights and biases of the last layer are uniform in ± this; None
            treats it like the other layers.
        layer_norm: give each hidden layer a LayerNorm, `scale0` and `shift0` `[out]`, ...
        blocks: number of residual blocks after the first layer, shared, each of two layers with
            LayerNorm: `block0.weight0`, ..., `block0.weight1`, ..., `block1.weight0`, ...
        own_layers: number of task-specific last layers.
        tasks: K.

    Returns:
        `weight0` `[out, in]`, `bias0` `[out]`, `weight1`, ...
    """
    parameters = Parameters({}, {})
    last = len(sizes) - 2

    def uniform(bound: float, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) * bound

    def add_layer(
        name: str, fan_in: int, fan_out: int, head: float | None, norm: bool, own: bool
    ) -> None:
        group, lead = (parameters.own, (tasks,)) if own else (parameters.shared, ())
        bound = head or math.sqrt(6 / (fan_in + (fan_out if initialization == "xavier" else 0)))
        group[name.format("weight")] = uniform(bound, *lead, fan_out, fan_in)
        zero = torch.zeros(*lead, fan_out)
        group[name.format("bias")] = uniform(head, *lead, fan_out) if head else zero
        if norm:
            group[name.format("scale")] = torch.ones(*lead, fan_out)
            group[name.format("shift")] = torch.zeros(*lead, fan_out)

    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        head = head_bound if initialization == "he" and layer == last else None
        norm = layer_norm and layer < last
        add_layer(f"{{}}{layer}", fan_in, fan_out, head, norm, layer > last - own_layers)
        if layer == 0:
            for number in range(2 * blocks):
                name = f"block{number // 2}.{{}}{number % 2}"
                add_layer(name, fan_out, fan_out, None, True, False)
    return parameters


def _hidden_layers(config: AgentConfig, width: int) -> tuple[list[int], int]:
    """Return the widths of the hidden layers of actor or critics, and their residual blocks."""
    own_layers = ARCHITECTURES[config.name].own_layers
    if config.network == "bronet":
        return [width] * max(own_layers, 1), config.depth
    return [width] * (config.depth + own_layers), 0


def init_actor(
    config: AgentConfig,
    observation_dim: int,
    action_dim: int,
    tasks: int,
    generator: torch.Generator,
) -> Parameters:
    """Initialise one seed's actor.

    It maps the observation, with the task encoding if there is one, to mean and log standard
    deviation of each action.
    """
    if (custom := custom_actor(config, observation_dim, action_dim)) is not None:
        return Parameters(custom.init(generator), {})
    architecture = ARCHITECTURES[config.name]
    hidden, blocks = _hidden_layers(config, config.width)
    return init_mlp(
        [observation_dim + architecture.encoding, *hidden, 2 * action_dim],
        generator,
        config.initialization,
        ACTOR_HEAD_BOUND,
        config.network == "bronet",
        blocks,
        architecture.own_layers,
        tasks,
    )


def init_critics(
    config: AgentConfig,
    observation_dim: int,
    action_dim: int,
    tasks: int,
    generator: torch.Generator,
) -> Parameters:
    """Initialise one seed's two critics, `first.*` and `second.*`.

    They map the observation, with the task encoding if there is one, and the action to the outputs
    of `critics.make_critic`.
    The critics hold and train the task encoder: `encoder.*`, shared, and each task's `embedding`
    `[K, E]`.
    """
    architecture = ARCHITECTURES[config.name]
    hidden, blocks = _hidden_layers(config, critic_width(config))
    inputs = observation_dim + architecture.encoding + action_dim
    custom = custom_critic(config, observation_dim, action_dim)
    parts = {
        twin: Parameters(custom.init(generator), {})
        if custom is not None
        else init_mlp(
            [inputs, *hidden, make_critic(config).outputs],
            generator,
            config.initialization,
            CRITIC_HEAD_BOUND,
            config.critic_layer_norm or config.network == "bronet",
            blocks,
            architecture.own_layers,
            tasks,
        )
        for twin in TWINS
    }
    embedding: Tensors = {}
    if architecture.encoding:
        sizes = [architecture.encoding] * (ENCODER_DEPTH + 2)
        parts["encoder"] = init_mlp(sizes, generator, config.initialization)
        embedding["embedding"] = torch.randn(tasks, architecture.encoding, generator=generator)
    shared = {
        f"{p}.{name}": value for p, mlp in parts.items() for name, value in mlp.shared.items()
    }
    own = {f"{p}.{name}": value for p, mlp in parts.items() for name, value in mlp.own.items()}
    return Parameters(shared, {**own, **embedding})


def critic_width(config: AgentConfig) -> int:
    """Return the units of each hidden layer of the critics."""
    return config.width if config.critic_width is None else config.critic_width


def custom_actor(
    config: AgentConfig, observation_dim: int, action_dim: int
) -> CustomNetwork | None:
    """Return the registered network of the actor; None if `agent.network` is built in."""
    inputs = observation_dim + ARCHITECTURES[config.name].encoding
    return custom_network(config.network, inputs, 2 * action_dim, config.width, config.depth)


def custom_critic(
    config: AgentConfig, observation_dim: int, action_dim: int
) -> CustomNetwork | None:
    """Return the registered network of each critic; None if `agent.network` is built in."""
    inputs = observation_dim + ARCHITECTURES[config.name].encoding + action_dim
    outputs, width = make_critic(config).outputs, critic_width(config)
    return custom_network(config.network, inputs, outputs, width, config.depth)


def stack_seeds(
    seeds: Sequence[Parameters], device: torch.device, dtype: torch.dtype
) -> Parameters:
    """Stack the parameters of each seed as `[S, ...]`."""

    def stack(groups: Sequence[Tensors]) -> Tensors:
        return {
            name: torch.stack([group[name] for group in groups]).to(device, dtype)
            for name in groups[0]
        }

    return Parameters(stack([seed.shared for seed in seeds]), stack([seed.own for seed in seeds]))


# ---- forward passes ----


def layer_norm(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Apply a LayerNorm, or two stacked ones, in the floating-point type of its parameters."""
    inputs = inputs.to(scale.dtype)
    if scale.ndim == 2:
        return F.layer_norm(inputs, scale.shape[1:]) * scale.unsqueeze(1) + shift.unsqueeze(1)
    return F.layer_norm(inputs, scale.shape, scale, shift)


def mlp(
    parameters: Tensors,
    inputs: Tensor,
    prefix: str = "",
    dtype: torch.dtype | None = None,
    norm: LayerNorm = layer_norm,
) -> Tensor:
    """Apply the perceptron of parameters `prefix + weight0`, ...: `[..., in]` -> `[..., out]`.

    Parameters of two perceptrons, stacked by `stack_twins`, take `[2, n, in]` to `[2, n, out]`.

    Args:
        parameters: of one task.
        inputs: `[..., in]`.
        prefix: of the perceptron's names.
        dtype: see `Computation`.
        norm: computes a LayerNorm.
    """
    layers = sum(name.startswith(f"{prefix}weight") for name in parameters)
    hidden = inputs
    for layer in range(layers):
        of_layer = dtype
        if dtype is not None and layer in (0, layers - 1):
            of_layer = parameters[f"{prefix}weight{layer}"].dtype
        hidden = _layer(parameters, hidden, prefix, layer, of_layer, norm)
        if layer < layers - 1:
            hidden = F.relu(hidden)
        if layer == 0:
            hidden = _residual_blocks(parameters, hidden, prefix, dtype, norm)
    return hidden


def _residual_blocks(
    parameters: Tensors, hidden: Tensor, prefix: str, dtype: torch.dtype | None, norm: LayerNorm
) -> Tensor:
    """Apply the residual blocks of BroNet (Nauman et al., 2024, arXiv:2405.16158), if any."""
    block = 0
    while f"{prefix}block{block}.weight0" in parameters:
        of_block = f"{prefix}block{block}."
        inner = F.relu(_layer(parameters, hidden, of_block, 0, dtype, norm))
        hidden = hidden + _layer(parameters, inner, of_block, 1, dtype, norm)
        block += 1
    return hidden


def _layer(
    parameters: Tensors,
    hidden: Tensor,
    prefix: str,
    layer: int,
    dtype: torch.dtype | None,
    norm: LayerNorm,
) -> Tensor:
    """Apply a linear layer in the given floating-point type, and its LayerNorm if it has one."""
    weight, bias = parameters[f"{prefix}weight{layer}"], parameters[f"{prefix}bias{layer}"]
    if dtype is not None:
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
    hidden = _linear(hidden, weight, bias)
    scale = parameters.get(f"{prefix}scale{layer}")
    return hidden if scale is None else norm(hidden, scale, parameters[f"{prefix}shift{layer}"])


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear layer, or two stacked ones."""
    if weight.ndim == 3:
        return product(inputs, weight) + bias.unsqueeze(1)
    return F.linear(inputs, weight, bias)


def stack_twins(critics: Tensors) -> Tensors:
    """Stack the parameters of both critics: `weight0` `[2, out, in]`, `bias0` `[2, out]`, ..."""
    names = [name.removeprefix("first.") for name in critics if name.startswith("first.")]
    twins = [[critics[f"{twin}.{name}"] for name in names] for twin in TWINS]
    return dict(zip(names, stack_pairs(*twins), strict=True))


def encoder_parameters(critics: Tensors) -> Tensors:
    """Return the task encoder's parameters among the critics'; empty if there is none."""
    return {
        name: value
        for name, value in critics.items()
        if name == "embedding" or name.startswith("encoder.")
    }


def with_encoding(critics: Tensors, observations: Tensor) -> Tensor:
    """Append the task's encoding to the observations if the critics have an encoder.

    Args:
        critics: parameters for one task.
        observations: `[..., O]`.

    Returns:
        `[..., O + E]`, or the observations themselves.
    """
    if "embedding" not in critics:
        return observations
    encoding = mlp(critics, F.relu(critics["embedding"]), "encoder.")
    # Two padded tensors are added, because `torch.cat` under vmap ties an exported program to the
    # number of rows of its example (PyTorch 2.13).
    return F.pad(observations, (0, encoding.shape[-1])) + F.pad(
        encoding, (observations.shape[-1], 0)
    )


def policy(
    actor: Tensors,
    inputs: Tensor,
    log_std: LogStd,
    computation: Computation = DEFAULT,
    network: Apply = mlp,
) -> tuple[Tensor, Tensor]:
    """Return mean and log standard deviation of the action before squashing, each `[..., A]`.

    Args:
        actor: parameters.
        inputs: observations with encoding, `[..., O + E]`.
        log_std: range of the log standard deviation.
        computation: of the products.
        network: computes the actor.
    """
    mean, outputs = network(actor, inputs, dtype=computation.dtype).chunk(2, dim=-1)
    return mean, log_std(outputs)


def sample(
    actor: Tensors,
    inputs: Tensor,
    noise: Tensor,
    log_std: LogStd,
    computation: Computation = DEFAULT,
    network: Apply = mlp,
) -> tuple[Tensor, Tensor]:
    """Sample a squashed Gaussian action (Haarnoja et al., 2018, appendix C).

    Args:
        actor: parameters.
        inputs: observations with encoding, `[..., O + E]`.
        noise: standard normal, `[..., A]`.
        log_std: see `policy`.
        computation: of the products.
        network: computes the actor.

    Returns:
        actions `[..., A]` in (−1, 1) and their log-densities `[...]`.
    """
    mean, log_stds = policy(actor, inputs, log_std, computation, network)
    unsquashed = mean + log_stds.exp() * noise
    gaussian = -0.5 * noise.square() - log_stds - 0.5 * math.log(2 * math.pi)
    # log(1 − tanh²(u)) = 2·(log 2 − u − softplus(−2u)) keeps its precision for large |u|.
    squash = 2 * (math.log(2) - unsquashed - F.softplus(-2 * unsquashed))
    return unsquashed.tanh(), (gaussian - squash).sum(-1)


def critic_outputs(
    critics: Tensors,
    inputs: Tensor,
    actions: Tensor,
    computation: Computation = DEFAULT,
    network: Apply = mlp,
) -> Tensor:
    """Return the outputs `[2, ..., n]` of both critics, see `critics.Critic`.

    Args:
        critics: parameters.
        inputs: observations with encoding, `[..., O + E]`.
        actions: `[..., A]`.
        computation: of the products.
        network: computes a critic.
    """
    joined = torch.cat([inputs, actions], dim=-1)
    dtype = computation.dtype
    if not computation.at_once or network is not mlp:
        return torch.stack([network(critics, joined, f"{twin}.", dtype) for twin in TWINS])
    rows = joined.reshape(-1, joined.shape[-1]).expand(2, -1, -1)
    return mlp(stack_twins(critics), rows, dtype=dtype).view(2, *joined.shape[:-1], -1)
