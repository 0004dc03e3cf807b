"""FairGrad and related methods of gradient combination for any training loop.

    from mtrl_fairgrad import FairGrad, backward

    backward(losses, FairGrad(alpha=2), shared=encoder.parameters(), own=heads.parameters())

    run = mtrl_fairgrad.train("env=mt10", alpha=2)

The public names are those of `mtrl_fairgrad.weighting` and `mtrl_fairgrad.gradients`, and with the
extra `rl` those that `_FACE` lists. They are imported on first use, so that `import mtrl_fairgrad`
alone loads neither PyTorch nor NumPy: worker processes with simulators and command-line checks need
neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrl_fairgrad.agents.custom_networks import register_network as register_network
    from mtrl_fairgrad.api.policy import load_policy as load_policy
    from mtrl_fairgrad.api.run import Run as Run
    from mtrl_fairgrad.envs.standard_vector_env import make_vec as make_vec
    from mtrl_fairgrad.gradients import *  # noqa: F403
    from mtrl_fairgrad.train import CallableModule
    from mtrl_fairgrad.weighting import *  # noqa: F403

    __version__: str
    train: CallableModule

_PUBLIC_SUBPACKAGES = ("weighting", "gradients")
_FACE = {
    "Run": "api.run",
    "load_policy": "api.policy",
    "make_vec": "envs",
    "register_network": "agents.custom_networks",
    "train": "train",
}
"""Name -> the module that defines it; `train` is a module that can be called. They are not in
`__all__`, because a star import needs the extra `rl` for them.
"""
_DEPRECATED = {
    "make": "make_method",
    "names": "method_names",
    "options": "method_options",
    "register": "register_method",
}
"""Names of version 0.1 and their successors."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name == "__all__":
        return sorted(_public_names())
    if name == "__version__":
        return _version()
    if name in _FACE:
        return _face(name)
    if name in _DEPRECATED:
        import warnings

        name, old = _DEPRECATED[name], name
        warnings.warn(
            f"mtrl_fairgrad.{old} is deprecated: use mtrl_fairgrad.{name}.",
            DeprecationWarning,
            stacklevel=2,
        )
    if not name.startswith("_") and not _is_submodule(name) and name in (names := _public_names()):
        return names[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_public_names(), *_FACE, "__version__"})


def _face(name: str) -> Any:
    """Import a name of `_FACE`."""
    from importlib import import_module

    from mtrl_fairgrad.utils.extras import RL_MODULES, require

    for module in RL_MODULES:
        require(module, "rl")
    module = import_module(f"{__name__}.{_FACE[name]}")
    return module if _FACE[name] == name else getattr(module, name)


def _public_names() -> dict[str, Any]:
    """Return the public names of the subpackages: name -> object."""
    from importlib import import_module
    from types import ModuleType

    return {
        name: value
        for subpackage in _PUBLIC_SUBPACKAGES
        for name, value in vars(import_module(f"{__name__}.{subpackage}")).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }


def _is_submodule(name: str) -> bool:
    """Whether a name is a submodule, without PyTorch, for `from mtrl_fairgrad import train`."""
    from importlib.util import find_spec

    return find_spec(f"{__name__}.{name}") is not None


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mtrl-fairgrad")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"
