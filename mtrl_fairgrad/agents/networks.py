"""Actor and twin critics as pure functions of their parameters.

Parameters are plain mappings name -> tensor, in two groups: those all tasks of a seed share, and
those each task has for itself (`Parameters`). The functions here are written for one task of one
seed and take both groups merged; `torch.func` lifts them over tasks and seeds. What is in the
mapping decides what is computed: architectures differ only in what `init_actor` and `init_critics`
make, and in which group they put it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Tensors = dict[str, Tensor]

ACTOR_HEAD_BOUND = 1e-3
CRITIC_HEAD_BOUND = 3e-3
"""He's heads start uniform in ± these bounds, as in the Meta-World+ baselines: near-zero actions
and values.
"""
ENCODER_DEPTH = 2
"""Hidden layers of the task encoder, each as wide as the encoding."""


class Parameters(NamedTuple):
    """The parameters of one network by name; stacked over seeds, with a leading `[S]`."""

    shared: Tensors
    """Of all tasks: `[*shape]`."""
    own: Tensors
    """Of each task: `[K, *shape]`."""


class Architecture(NamedTuple):
    """What tells the agents' networks apart; all see the observation as the environment gives it,
    task id included.
    """

    own_layers: int = 0
    """So many last layers of the actor and of both critics are each task's own, on a trunk of
    `depth` + 1 layers.
    """
    encoding: int = 0
    """Width of the task encoder: each task's embedding, ReLU, then a perceptron that all share; 0:
    there is none.
    """


ARCHITECTURES = {
    "mtsac": Architecture(),
    "mtsac_te": Architecture(encoding=50),
    "mhsac": Architecture(own_layers=2),
    "stl": Architecture(),
}
"""Of the agents, by name; sizes as in MTRL (Sodhani & Zhang, 2021)."""


@dataclass(frozen=True)
class NetworkSpec:
    """Shape of the multi-layer perceptrons, how they begin, and the range of the policy's log
    standard deviation.
    """

    observation_dim: int
    action_dim: int
    width: int = 400
    depth: int = 3
    """Hidden layers, of a trunk where tasks have layers of their own on top."""
    log_std_min: float = -20.0
    log_std_max: float = 2.0
    architecture: Architecture = ARCHITECTURES["mtsac"]
    critic_width: int | None = None
    """`None`: as the actor's."""
    critic_layer_norm: bool = False
    """LayerNorm with gain and bias after each hidden linear layer of the critics, before its ReLU.
    """
    initialization: str = "he"
    """`"he"`: He-uniform, zero biases, heads small and uniform; `"xavier"`: Xavier-uniform, zero
    biases, heads too.
    """
    log_std: str = "clamp"
    """How the range is kept: `"clamp"`, or `"tanh"`, which squashes into it."""


def init_mlp(
    sizes: Sequence[int],
    generator: torch.Generator,
    initialization: str = "he",
    head_bound: float | None = None,
    layer_norm: bool = False,
    own_layers: int = 0,
    tasks: int = 1,
) -> Parameters:
    """A ReLU perceptron, He-uniform (He et al., 2015) or Xavier-uniform (Glorot & Bengio, 2010),
    with zero biases.

    Args:
        sizes: input, hidden, ..., output widths.
        generator: one seed's CPU generator.
        initialization: `"he"` or `"xavier"`.
        head_bound: under `"he"`, the last layer's weights and biases are uniform in ± this; `None`:
            like the others'.
        layer_norm: whether hidden layers are normalised, by `scale0` and `shift0` `[out]`, ...
        own_layers: how many of the last layers each task has for itself.
        tasks: K.

    Returns:
        `weight0` `[out, in]`, `bias0` `[out]`, `weight1`, ...
    """

    def uniform(bound: float, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) * bound

    found = Parameters({}, {})
    last = len(sizes) - 2
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        group, lead = (found.own, (tasks,)) if layer > last - own_layers else (found.shared, ())
        head = head_bound if initialization == "he" and layer == last else None
        bound = head or math.sqrt(6 / (fan_in + (fan_out if initialization == "xavier" else 0)))
        group[f"weight{layer}"] = uniform(bound, *lead, fan_out, fan_in)
        group[f"bias{layer}"] = (
            uniform(head, *lead, fan_out) if head else torch.zeros(*lead, fan_out)
        )
        if layer_norm and layer < last:
            group[f"scale{layer}"], group[f"shift{layer}"] = (
                torch.ones(*lead, fan_out),
                torch.zeros(*lead, fan_out),
            )
    return found


def mlp(parameters: Tensors, inputs: Tensor, prefix: str = "") -> Tensor:
    """The perceptron of parameters named `prefix + weight0`, ...: `[..., in]` -> `[..., out]`."""
    layers = sum(name.startswith(f"{prefix}weight") for name in parameters)
    hidden = inputs
    for layer in range(layers):
        weight, bias = parameters[f"{prefix}weight{layer}"], parameters[f"{prefix}bias{layer}"]
        hidden = F.linear(hidden, weight, bias)
        scale = parameters.get(f"{prefix}scale{layer}")
        if scale is not None:
            hidden = F.layer_norm(hidden, scale.shape, scale, parameters[f"{prefix}shift{layer}"])
        if layer < layers - 1:
            hidden = F.relu(hidden)
    return hidden


def init_actor(spec: NetworkSpec, tasks: int, generator: torch.Generator) -> Parameters:
    """One seed's actor: observation, and encoding if any -> mean and log standard deviation of each
    action.
    """
    encoding, own_layers = spec.architecture.encoding, spec.architecture.own_layers
    hidden = [spec.width] * (spec.depth + own_layers)
    sizes = [spec.observation_dim + encoding, *hidden, 2 * spec.action_dim]
    return init_mlp(
        sizes, generator, spec.initialization, ACTOR_HEAD_BOUND, own_layers=own_layers, tasks=tasks
    )


def init_critics(spec: NetworkSpec, tasks: int, generator: torch.Generator) -> Parameters:
    """One seed's two critics, `first.*` and `second.*`: observation, encoding if any, and action ->
    value.

    The task encoder is the critics', who train it: `encoder.*`, shared, and each task's own
    `embedding` `[K, E]`.
    """
    encoding, own_layers = spec.architecture.encoding, spec.architecture.own_layers
    width = spec.width if spec.critic_width is None else spec.critic_width
    sizes = [
        spec.observation_dim + encoding + spec.action_dim,
        *[width] * (spec.depth + own_layers),
        1,
    ]
    options = (spec.initialization, CRITIC_HEAD_BOUND, spec.critic_layer_norm, own_layers, tasks)
    parts = {name: init_mlp(sizes, generator, *options) for name in ("first", "second")}
    embedding: Tensors = {}
    if encoding:
        parts["encoder"] = init_mlp(
            [encoding] * (ENCODER_DEPTH + 2), generator, spec.initialization
        )
        embedding["embedding"] = torch.randn(tasks, encoding, generator=generator)

    def named(group: int) -> Tensors:
        return {
            f"{part}.{name}": value
            for part, found in parts.items()
            for name, value in found[group].items()
        }

    return Parameters(named(0), {**named(1), **embedding})


def of_encoder(critics: Tensors) -> Tensors:
    """The task encoder among the critics' parameters, empty if they have none."""
    return {
        name: value
        for name, value in critics.items()
        if name == "embedding" or name.startswith("encoder.")
    }


def with_encoding(critics: Tensors, observations: Tensor) -> Tensor:
    """What actor and critics look at: `[..., O]`, then the task's encoding, if the critics have an
    encoder.
    """
    if "embedding" not in critics:
        return observations
    encoding = mlp(critics, F.relu(critics["embedding"]), "encoder.")
    # A sum of both with zeros, because `torch.cat` under vmap ties an exported program to the
    # number of rows it was traced with (PyTorch 2.13).
    return F.pad(observations, (0, encoding.shape[-1])) + F.pad(
        encoding, (observations.shape[-1], 0)
    )


def policy(parameters: Tensors, observations: Tensor, spec: NetworkSpec) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of the unsquashed action, each `[..., A]`, for what is seen,
    `[..., O + E]`.
    """
    mean, log_std = mlp(parameters, observations).chunk(2, dim=-1)
    low, high = spec.log_std_min, spec.log_std_max
    if spec.log_std == "tanh":
        return mean, low + (high - low) / 2 * (log_std.tanh() + 1)
    return mean, log_std.clamp(low, high)


def sample(
    parameters: Tensors, observations: Tensor, noise: Tensor, spec: NetworkSpec
) -> tuple[Tensor, Tensor]:
    """A squashed Gaussian action and its log-density (Haarnoja et al., 2018, appendix C).

    Args:
        parameters: the actor.
        observations: what is seen, `[..., O + E]`.
        noise: standard normal `[..., A]`.
        spec: shape and range of the policy.

    Returns:
        actions `[..., A]` in (−1, 1) and log-probabilities `[...]`.
    """
    mean, log_std = policy(parameters, observations, spec)
    unsquashed = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    # log(1 − tanh(u)²) = 2·(log 2 − u − softplus(−2u)), which does not lose its digits for large
    # |u|.
    squash = 2 * (math.log(2) - unsquashed - F.softplus(-2 * unsquashed))
    return unsquashed.tanh(), (gaussian - squash).sum(-1)


def values(parameters: Tensors, observations: Tensor, actions: Tensor) -> Tensor:
    """Both critics' values `[2, ...]` of what is seen, `[..., O + E]`, and actions `[..., A]`."""
    inputs = torch.cat([observations, actions], dim=-1)
    return torch.stack(
        [mlp(parameters, inputs, f"{twin}.").squeeze(-1) for twin in ("first", "second")]
    )


def stack_seeds(
    seeds: Sequence[Parameters], device: torch.device, dtype: torch.dtype
) -> Parameters:
    """The parameters of all seeds, `[S, ...]`, from those of each."""

    def stack(group: Sequence[Tensors]) -> Tensors:
        return {
            name: torch.stack([one[name] for one in group]).to(device, dtype) for name in group[0]
        }

    return Parameters(stack([one.shared for one in seeds]), stack([one.own for one in seeds]))
