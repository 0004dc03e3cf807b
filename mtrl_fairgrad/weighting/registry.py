"""Methods by name: the built-in ones, those registered in Python, and those of installed packages.

A package offers methods to the command line by an entry point in its `pyproject.toml`:

    [project.entry-points."mtrl_fairgrad.methods"]
    my_method = "my_package.module:MyMethod"
"""

from __future__ import annotations

import difflib
import inspect
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from mtrl_fairgrad.weighting.base import Method

ENTRY_POINT_GROUP = "mtrl_fairgrad.methods"

BUILT_IN = {
    "aligned_mtl": "AlignedMTL",
    "cagrad": "CAGrad",
    "db_mtl": "DBMTL",
    "dwa": "DWA",
    "fairgrad": "FairGrad",
    "famo": "FAMO",
    "graddrop": "GradDrop",
    "gradvac": "GradVac",
    "imtl_g": "IMTLG",
    "ls": "LS",
    "mgda": "MGDA",
    "moco": "MoCo",
    "nash_mtl": "NashMTL",
    "pcgrad": "PCGrad",
    "rlw": "RLW",
    "si": "SI",
    "stch": "STCH",
    "stl": "STL",
    "upgrad": "UPGrad",
    "uw": "UW",
}
"""Name of a method, which is also its module in `mtrl_fairgrad.weighting`, and its class."""

_registered: dict[str, type[Method]] = {}

M = TypeVar("M", bound=Method)


def register_method(method: type[M]) -> type[M]:
    """Register a method class under its `name`; a class decorator.

    Raises:
        ValueError: the class has no `name` of its own, or another class has that name.
    """
    name = vars(method).get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{method.__name__} has no name: set the class attribute name, such as name = 'ls'."
        )
    owner = _registered.get(name) or (_built_in(name) if name in BUILT_IN else method)
    if owner is not method:
        raise ValueError(
            f"name={name} belongs to {owner.__name__}: give {method.__name__} another name."
        )
    _registered[name] = method
    return method


def method_names() -> tuple[str, ...]:
    """Return the names of all available methods in alphabetical order."""
    return tuple(sorted({*BUILT_IN, *_registered, *_entry_points()}))


def method_options(name: str) -> dict[str, Any]:
    """Return a method's hyper-parameters with their defaults, in the constructor's order.

    Raises:
        ValueError: no method has this name.
    """
    parameters = inspect.signature(_find(name).__init__).parameters
    return {
        option: parameter.default for option, parameter in parameters.items() if option != "self"
    }


def make_method(name: str, **options: Any) -> Method:
    """Make a method by its name; options that are not given keep their defaults.

    Raises:
        ValueError: unknown method, unknown option, or a value that the option does not allow.
    """
    method, allowed = _find(name), method_options(name)
    for option in options:
        if option not in allowed:
            owners = [other for other in method_names() if _has_option(other, option)]
            elsewhere = f", or choose method={' or method='.join(owners)}" if owners else ""
            takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise ValueError(
                f"method={name} has no option '{option}': {takes}. Drop it{elsewhere}."
            )
    return method(**options)


def _has_option(name: str, option: str) -> bool:
    try:
        return option in method_options(name)
    except ValueError:  # an entry point that cannot be imported
        return False


def _find(name: str) -> type[Method]:
    if name in _registered:
        return _registered[name]
    if name in BUILT_IN:
        return _built_in(name)
    if name in _entry_points():
        return _load(_entry_points()[name])
    close = difflib.get_close_matches(str(name).lower(), method_names(), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "choose one of them."
    raise ValueError(
        f"method={name} is unknown; the methods are {', '.join(method_names())}: {hint}"
    )


def _built_in(name: str) -> type[Method]:
    return getattr(import_module(f"mtrl_fairgrad.weighting.{name}"), BUILT_IN[name])


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _load(point: EntryPoint) -> type[Method]:
    """Load the class of an entry point.

    Raises:
        ValueError: it cannot be imported, or is not a method class with the entry point's name.
    """
    try:
        method = point.load()
    except Exception as error:
        raise ValueError(
            f"entry point {point.name}={point.value} cannot be imported ({error}): "
            "repair or remove the package that declares it."
        ) from error
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise ValueError(f"entry point {point.name}={point.value} is not a Method class: fix it.")
    if vars(method).get("name") != point.name:
        raise ValueError(
            f"entry point {point.name}={point.value} has another name: set name = '{point.name}' "
            f"in {method.__name__}."
        )
    return method
