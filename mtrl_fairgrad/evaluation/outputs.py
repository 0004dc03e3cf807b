"""Results of an evaluation: the printed table, its CSV file, goals.csv and goals.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.analysis.statistics import over_seeds
from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.evaluation import goal_maps
from mtrl_fairgrad.runs.evaluation_table import COLUMNS, known
from mtrl_fairgrad.runs.fault_log import EVALUATION, SIMULATED_TEXTS
from mtrl_fairgrad.runs.policy_description import Result
from mtrl_fairgrad.utils.atomic_io import write_atomic, writing_remedy
from mtrl_fairgrad.utils.clean_text import clean
from mtrl_fairgrad.utils.text_tables import counted, csv_report, text_table

if TYPE_CHECKING:
    from mtrl_fairgrad.envs.evaluation import EvaluationResult


def print_table(
    config: Config, tasks: Sequence[str], env_steps: int, episodes: NDArray[np.bool_]
) -> None:
    """Print success rates of `episodes` `[S, K, E]`: a row per task, a column per seed."""
    success = episodes.mean(-1)
    print(f"{clean(_title(config, env_steps))}, {episodes.shape[-1]} goals per task")
    rows = [["task", *(f"seed {seed}" for seed in config.seeds)]]
    rows += [[task, *(f"{rate:.2f}" for rate in success[:, k])] for k, task in enumerate(tasks)]
    rows.append(["mean", *(f"{rate:.3f}" for rate in success.mean(1))])
    print("\n".join(text_table(rows)))
    if len(config.seeds) > 1:
        mean, error = over_seeds(success.mean(1), axis=0)
        print(f"mean over {len(config.seeds)} seeds: {mean:.3f} ± {error:.3f}")


def print_faults(config: Config, tasks: Sequence[str], non_finite: NDArray[np.bool_]) -> None:
    """Name the seeds and tasks of episodes `[S, K, E]` with a number that was not finite."""
    what, unit = SIMULATED_TEXTS[EVALUATION]
    episodes = counted(non_finite.shape[-1], unit)
    for (s, k), number in np.ndenumerate(non_finite.sum(-1)):
        if number:
            where = f"seed {config.seeds[s]}, {tasks[k]}"
            print(clean(f"warning: {where}: {what} in {number} of {episodes}"))


def compare(recorded: Result, measured: dict[str, Any]) -> None:
    """Print whether an exported policy repeats its recorded result; both come from `scores`."""
    summary = f"its file records {recorded['mean']:.3f} over {recorded['goals']} goals per task"
    if recorded["goals"] != measured["goals"]:
        print(f"{summary}: another number of goals, so not compared")
        return
    rates = measured["success"]
    differing = [
        f"{task} {rate:.2f}"
        for task, rate in recorded["success"].items()
        if rate != rates.get(task)
    ]
    verdict = (
        f"NOT repeated, it records {', '.join(differing)}" if differing else "repeated exactly"
    )
    print(clean(f"{summary}: {verdict}"))


def write(
    out: Path,
    config: Config,
    tasks: Sequence[str],
    env_steps: int,
    goals: NDArray[np.int64],
    result: EvaluationResult,
    protocol: str,
) -> Path:
    """Write `evaluation-<env_steps>-<goals>-goals.csv`, goals.csv and goals.png.

    Args:
        out: existing folder.
        config: configuration of the run.
        tasks: names of the K tasks.
        env_steps: env_steps of the policy's checkpoint.
        goals: indices of the goals, `[S, K, E]`.
        result: results of the episodes with these goals.
        protocol: protocol as one line.

    Returns:
        the path of the first file.

    Raises:
        ConfigError: a file cannot be written.
    """
    rows = [
        (
            env_steps,
            seed,
            task,
            goals.shape[-1],
            result.success[s, k].mean(),
            known(result.returns[s, k].mean()),
            known(result.returns_until_success[s, k].mean()),
            protocol,
        )
        for s, seed in enumerate(config.seeds)
        for k, task in enumerate(tasks)
    ]
    path = out / f"evaluation-{env_steps}-{goals.shape[-1]}-goals.csv"
    identities = len(tasks) if config.env.one_hot else 0
    places = goal_maps.positions(
        result.starts, identities, metaworld=config.env.suite != "gymnasium"
    )
    seeds = f"seed {config.seeds[0]}" if len(config.seeds) == 1 else f"{len(config.seeds)} seeds"
    title = f"{_title(config, env_steps)}, {seeds}"
    try:
        write_atomic(path, csv_report([[*COLUMNS, "protocol"], *rows]).encode())
        more = goal_maps.write(out, result, goals, places, config.seeds, tasks, env_steps, title)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written to ({error.strerror}): "
            f"{writing_remedy(error, 'give another folder with --out')}."
        ) from error
    print(clean(f"written: {', '.join(str(file) for file in (path, *more))}"))
    return path


def _title(config: Config, env_steps: int) -> str:
    from mtrl_fairgrad.training.factory import methods_by_network

    return f"{config.env.name}, {methods_by_network(config)['critic']}, env_steps {env_steps}"
