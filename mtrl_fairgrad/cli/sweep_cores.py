"""Share this machine's cores among the runs of a sweep that are trained at the same time.

A run's default number of simulator processes is that of the cores. Sixteen runs at once on sixteen
cores would start 500 processes, so in a sweep a run's default is its share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mtrl_fairgrad.utils.cores import available_cores


def count_runs(arguments: Sequence[str]) -> int:
    """Return the number of runs of a multirun's command line; 1 if Hydra will refuse it."""
    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException:
        return 1
    return math.prod(
        len(list(override.sweep_iterator()))
        for override in overrides
        if override.is_sweep_override()
    )


def cores_per_run(launcher: Any, runs: int) -> int | None:
    """Return the number of cores for each run; None if runs do not compete for them.

    Args:
        launcher: Hydra's configuration of the launcher.
        runs: number of runs of the sweep.
    """
    name, cores = str(launcher["_target_"]).rpartition(".")[2], available_cores()
    if name == "JoblibLauncher":
        jobs = launcher.get("n_jobs") or 1  # -1: one per core, -2: one less
        at_once = jobs if jobs > 0 else max(1, cores + 1 + jobs)
    elif name == "LocalLauncher":
        at_once = runs
    elif name == "RayLauncher":
        return max(1, int(OmegaConf.select(launcher, "ray.remote.num_cpus") or 1))
    else:  # one run after the other, or each with cores of its own (SLURM)
        return None
    return max(1, cores // max(1, min(runs, at_once)))


def limit_workers(composed: DictConfig, cores: int | None) -> None:
    """Replace the default numbers of simulator processes by those for `cores`.

    With one core, the learner's process simulates.
    """
    if cores is None or "env" not in composed:
        return
    for part, workers in (("env", cores - 1), ("eval", cores if cores > 1 else 0)):
        if composed[part].workers is None:
            composed[part].workers = workers
