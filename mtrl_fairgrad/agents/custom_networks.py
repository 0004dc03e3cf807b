"""PyTorch modules of other programs as actor and critics of the agent.

    @register_network("gated")
    class Gated(nn.Module):
        def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None: ...
        def forward(self, rows: Tensor) -> Tensor: ...      # [B, inputs] -> [B, outputs]

    mtrl_fairgrad.train("agent.network=gated", "agent.width=128")

The agent trains all seeds in stacked parameters, so a module is used as a function of its
parameters. Everything it computes has to depend on these and on its input alone: no dropout, and no
buffers such as the running means of BatchNorm.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from mtrl_fairgrad.config.networks import Factory, add_network, check_new_name, custom_factory
from mtrl_fairgrad.utils.validation import ConfigError

F = TypeVar("F", bound=Callable[..., nn.Module])

NEEDED = (
    "a module without buffers that maps float32 [rows, inputs] to [rows, outputs], draws no random "
    "numbers and looks at no values"
)


def register_network(name: str) -> Callable[[F], F]:
    """Register a network as `agent.network=NAME`; a decorator of a module class or a function.

    It is called with the keywords `inputs`, `outputs`, `width` (`agent.width`, or
    `agent.critic_width` for critics) and `depth` (`agent.depth`) and returns a `torch.nn.Module`,
    whose initial parameters may be random: they depend on the run's seed alone.

    Raises:
        ConfigError: the name is no identifier, or that of a built-in network.
    """
    check_new_name(name)

    def register(factory: F) -> F:
        add_network(name, factory)
        return factory

    return register


class CustomNetwork:
    """A registered network of certain sizes, as a function of its parameters.

    Args:
        name: of the network.
        make: returns a new module.
        sizes: inputs and outputs.

    Raises:
        ConfigError: the module cannot be used.
    """

    def __init__(self, name: str, make: Callable[[], nn.Module], sizes: tuple[int, int]) -> None:
        self._name, self._make = name, make
        try:
            self._template = self._new(torch.Generator().manual_seed(0))
            fault = self._fault(*sizes)
        except Exception as error:  # anything that a stranger's code raises
            reason = str(error).strip().partition("\n")[0]
            raise self._refusal(f"{type(error).__name__}: {reason}") from error
        if fault:
            raise self._refusal(fault)

    def init(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return the parameters of a new module.

        Args:
            generator: one seed's CPU generator, from which one number is drawn; None for shapes
                alone.
        """
        return {name: p.detach().clone() for name, p in self._new(generator).named_parameters()}

    def __call__(
        self,
        parameters: Mapping[str, Tensor],
        inputs: Tensor,
        prefix: str = "",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Apply the network like `networks.mlp`; `dtype` is None."""
        own = {
            name.removeprefix(prefix): value
            for name, value in parameters.items()
            if name.startswith(prefix)
        }
        own = {name: own[name] for name, _ in self._template.named_parameters()}
        return torch.func.functional_call(self._template, own, (inputs,))

    def _new(self, generator: torch.Generator | None) -> nn.Module:
        if generator is None:
            return self._make()
        # Modules draw from PyTorch's own generator, which is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            return self._make()

    def _fault(self, inputs: int, outputs: int) -> str | None:
        """Return why the module cannot be used, or raise what it raises."""
        module: object = self._template
        if not isinstance(module, nn.Module):
            return f"it made {type(module).__name__}"
        if buffers := [name for name, _ in module.named_buffers()]:
            return f"it has the buffers {', '.join(buffers)}"
        parameters = dict(module.named_parameters())
        if not parameters:
            return "it has no parameters"
        if frozen := [name for name, p in parameters.items() if not p.requires_grad]:
            return f"{', '.join(frozen)} would be trained in spite of requires_grad=False"
        stacked = {name: torch.stack([p.detach()] * 2) for name, p in parameters.items()}
        result = torch.func.vmap(self)(stacked, torch.zeros(2, 3, inputs))
        if result.shape != (2, 3, outputs):
            shape = list(result.shape[1:])
            return f"for {inputs} inputs and {outputs} outputs it returned {shape}"
        if result.dtype != torch.float32:
            return f"it returned {result.dtype}"
        return None

    def _refusal(self, reason: str) -> ConfigError:
        return ConfigError(
            f"agent.network={self._name} cannot be used ({reason}): register {NEEDED}.",
            "agent.network",
            self._name,
        )


def custom_network(
    name: str, inputs: int, outputs: int, width: int, depth: int
) -> CustomNetwork | None:
    """Return a registered network of these sizes; None for a built-in one.

    Raises:
        ConfigError: the module cannot be used.
    """
    factory = custom_factory(name)
    return None if factory is None else _made(name, factory, inputs, outputs, width, depth)


@functools.cache
def _made(
    name: str, factory: Factory, inputs: int, outputs: int, width: int, depth: int
) -> CustomNetwork:
    """Make the network once, so that its equations are captured once."""

    def make() -> nn.Module:
        return factory(inputs=inputs, outputs=outputs, width=width, depth=depth)

    with torch.device("cpu"):  # whatever the default is where shapes alone are computed
        return CustomNetwork(name, make, (inputs, outputs))
