"""The parameters given to `backward` as `shared` and `own`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

from torch import Tensor, nn

from mtrl_fairgrad.gradients.shared_graph.sharded import stored_parameters
from mtrl_fairgrad.utils.validation import ConfigError

Parameters: TypeAlias = "nn.Module | Iterable[Tensor | tuple[str, Tensor] | nn.Module]"
"""A module, or an iterable of parameters, of `named_parameters()` or of modules; or a mapping to
them."""


def trainable(parameters: Any, group: str) -> list[Tensor]:
    """Return the parameters that require a gradient.

    Args:
        parameters: see `Parameters`.
        group: the argument's name.

    Raises:
        ConfigError: something else, a single tensor, or one that is not a leaf of the graph.
    """
    if isinstance(parameters, Tensor):
        raise ConfigError(
            f"{group} is a single tensor: give an iterable of parameters, such as [tensor].",
            group,
            parameters,
        )
    given = stored_parameters(_tensors(parameters, group), group)
    found = [tensor for tensor in given if tensor.requires_grad]
    for index, tensor in enumerate(found):
        if not tensor.is_leaf:
            raise ConfigError(
                f"{group} contains at {index} a tensor of shape {tuple(tensor.shape)} that is "
                "computed from others and has no .grad: give the parameters themselves.",
                group,
                tensor,
            )
    return found


def _tensors(parameters: Any, group: str) -> Iterator[Tensor]:
    if isinstance(parameters, nn.Module):
        yield from parameters.parameters()
        return
    if isinstance(parameters, Mapping):
        parameters = cast(Any, parameters).values()
    if isinstance(parameters, str) or not isinstance(parameters, Iterable):
        raise _refusal(group, "is", parameters)
    for each in cast(Any, parameters):
        each = _without_name(each)
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, nn.Module):
            yield from each.parameters()
        else:
            raise _refusal(group, "contains", each)


def _without_name(entry: Any) -> Any:
    """Return the parameter of an entry of `named_parameters()`; anything else as it is."""
    named = isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)  # pyright: ignore[reportUnknownArgumentType]
    return cast(Any, entry)[1] if named else cast(Any, entry)


def _refusal(group: str, verb: str, value: object) -> ConfigError:
    return ConfigError(
        f"{group} {verb} a {type(value).__name__}: give parameters, such as model.parameters(), "
        "or a module.",
        group,
        value,
    )
