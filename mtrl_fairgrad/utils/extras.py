"""Optional dependencies: one sentence with the install line when an extra is missing.

The library (`weighting`, `gradients`) needs PyTorch, NumPy and SciPy alone. Everything else comes
with an extra of `pyproject.toml`.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.entry_point import end_imports_quietly, is_command
from mtrl_fairgrad.utils.validation import ConfigError

RL_MODULES = (
    "gymnasium",
    "hydra",
    "jinja2",
    "matplotlib",
    "metaworld",
    "mujoco",
    "omegaconf",
    "safetensors",
    "tabulate",
    "tensorboard",
    "tqdm",
    "yaml",
)
"""Modules of the extra `rl`, which every command needs."""


class MissingExtraError(ConfigError, ImportError):
    """A module that an extra provides is not installed."""


def require(module: str, extra: str) -> None:
    """Check that a module is installed, without importing it.

    Args:
        module: top-level name of the module.
        extra: the extra of mtrl-fairgrad that provides it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    if find_spec(module) is None:
        raise MissingExtraError(f'{module} is not installed: pip install "mtrl-fairgrad[{extra}]".')


def require_for_command(name: str) -> None:
    """Check the extra `rl` at the top of a command's module, before the imports that need it.

    A process that was started as the command (`python -m` or a console script) exits with code 2
    and one sentence instead of a traceback; Ctrl-C during the imports has one line.

    Args:
        name: `__name__` of the command's module.

    Raises:
        MissingExtraError: a module of the extra is not installed, and the command's module is
            imported by other code.
    """
    if is_command(name):
        end_imports_quietly()
    try:
        for module in RL_MODULES:
            require(module, "rl")
    except MissingExtraError as error:
        if is_command(name):
            sys.exit(fail(error))
        raise
