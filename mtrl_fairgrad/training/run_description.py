"""What TensorBoard shows about a run: its configuration, hyper-parameters and charts of seeds."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version

import yaml

from mtrl_fairgrad.config.schema import RESUMABLE, Config, flatten, to_dict

COMPARED = ("success_mean/mean",)
"""Scalars by which TensorBoard compares runs of different hyper-parameters."""
GROUPS = ("env.", "agent.", "method.", "convention.")
SINGLE = ("loss_alpha", "seeds", "steps", "preset", "precision")
"""Options that are shown as hyper-parameters; others say where and how a run is computed."""
EXECUTION = RESUMABLE - {"steps"}
CHARTS = (
    *("success_mean", "return", "return_until_success", "critic/loss", "actor/loss"),
    *("critic/value", "critic/gradient_norm", "actor/gradient_norm", "temperature", "entropy"),
)
"""Scalars that have a chart with a curve for each seed."""


def seed_tag(seed: int, name: str) -> str:
    """Return the tag of a seed's own scalar."""
    return f"seed_{seed}/{name}"


def seed_charts(seeds: Sequence[int]) -> dict[str, dict[str, str]]:
    """Return the charts with a curve for each seed, for `EventFile.add_charts`."""
    each = "|".join(map(str, seeds))
    return {"seeds": {name: f"^seed_({each})/{name}$" for name in CHARTS}}


def hyper_parameters(config: Config) -> dict[str, str | float | bool]:
    """Return the options that distinguish how runs train, by dotted name."""
    return {
        key: value if isinstance(value, (bool, int, float)) else str(value)
        for key, value in flatten(to_dict(config)).items()
        if (key.startswith(GROUPS) or key in SINGLE) and key not in EXECUTION and value is not None
    }


def configuration_text(config: Config, env_steps: int) -> str:
    """Return the configuration as YAML and the versions of the software, in Markdown."""
    software = ", ".join(
        f"{name} {version(name)}" for name in ("mtrl-fairgrad", "torch", "numpy", "gymnasium")
    )
    written = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    # Four spaces make a block of code, in which TensorBoard interprets nothing.
    block = "".join(f"    {line}\n" for line in written.splitlines())
    return (
        f"From env_steps {env_steps}, with Python {platform.python_version()}, {software}.\n\n"
        f"{block}"
    )
