"""What an evaluation prints and writes beside films and programs: the table, its CSV, and the maps
of goals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.analysis.statistics import over_seeds
from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.evaluation import goal_maps
from mtrl_fairgrad.runs.run_dir import COLUMNS
from mtrl_fairgrad.utils.atomic_io import write_atomic
from mtrl_fairgrad.utils.text_tables import csv_text

if TYPE_CHECKING:
    from mtrl_fairgrad.envs.evaluation import EvaluationResult


def print_table(
    config: Config, tasks: Sequence[str], env_steps: int, episodes: NDArray[np.bool_]
) -> None:
    """Success rates of `episodes` `[S, K, E]` as a table, seeds side by side."""
    success = episodes.mean(-1)
    print(f"{_title(config, env_steps)}, {episodes.shape[-1]} goals per task")
    width = max(len(task) for task in (*tasks, "mean"))
    print(f"{'task':<{width}}" + "".join(f"  seed {seed:<4}" for seed in config.seeds))
    for k, task in enumerate(tasks):
        print(f"{task:<{width}}" + "".join(f"  {value:<9.2f}" for value in success[:, k]))
    print(f"{'mean':<{width}}" + "".join(f"  {value:<9.3f}" for value in success.mean(1)))
    if len(config.seeds) > 1:
        mean, error = over_seeds(success.mean(1), axis=0)
        print(f"mean over {len(config.seeds)} seeds: {mean:.3f} ± {error:.3f}")


def compare(stated: dict[str, Any], measured: dict[str, Any]) -> None:
    """Say whether an exported policy did what its file says; both as `policies.scores` made them."""
    said = f"its file states {stated['mean']:.3f} over {stated['goals']} goals per task"
    if stated["goals"] != measured["goals"]:
        print(f"{said}: other goals than these, so not compared")
        return
    rates = measured["success"]
    differing = [
        f"{task} {rate:.2f}" for task, rate in stated["success"].items() if rate != rates.get(task)
    ]
    print(
        f"{said}: {'NOT repeated, it states ' + ', '.join(differing) if differing else 'repeated exactly'}"
    )


def write(
    out: Path,
    config: Config,
    tasks: Sequence[str],
    env_steps: int,
    goals: NDArray[np.int64],
    found: EvaluationResult,
    protocol: str,
) -> Path:
    """Write `evaluation-<env_steps>-<goals>-goals.csv`, goals.csv and goals.png; returns the first
    one's path.

    Args:
        out: exists.
        config: of the run.
        tasks: K.
        env_steps: of the policy.
        goals: played, `[S, K, E]`.
        found: what they gave.
        protocol: what was measured, in a line.

    Raises:
        ConfigError: they cannot be written.
    """
    rows = [
        (
            env_steps,
            seed,
            task,
            goals.shape[-1],
            found.success[s, k].mean(),
            found.returns[s, k].mean(),
            protocol,
        )
        for s, seed in enumerate(config.seeds)
        for k, task in enumerate(tasks)
    ]
    path = out / f"evaluation-{env_steps}-{goals.shape[-1]}-goals.csv"
    identities = len(tasks) if config.env.one_hot else 0
    places = goal_maps.positions(
        found.starts, identities, metaworld=config.env.suite != "gymnasium"
    )
    seeds = f"seed {config.seeds[0]}" if len(config.seeds) == 1 else f"{len(config.seeds)} seeds"
    title = f"{_title(config, env_steps)}, {seeds}"
    try:
        write_atomic(path, csv_text([[*COLUMNS, "protocol"], *rows]).encode())
        more = goal_maps.write(out, found, goals, places, config.seeds, tasks, env_steps, title)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written to ({error.strerror}): give another folder with --out."
        ) from None
    print(f"written: {', '.join(str(each) for each in (path, *more))}")
    return path


def _title(config: Config, env_steps: int) -> str:
    from mtrl_fairgrad.training.factory import methods_by_network

    return f"{config.env.name}, {methods_by_network(config)['critic']}, env_steps {env_steps}"
