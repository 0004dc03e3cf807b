"""Groups of runs whose configurations differ only in seeds and execution (device, workers, …).

Numbers of different protocols are never averaged or compared. A protocol consists of all `env.*`
and `eval.*` options but those of copies (frequency and length of evaluations affect the best of
them) and the protocol in the manifest. A report shows each protocol in a block of its own;
statistics of several groups call `check_one_protocol`, which rejects a mixture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtrl_fairgrad.analysis.statistics import (
    Array,
    Estimate,
    Interval,
    Score,
    best_over_course,
    final,
    interquartile_mean,
    learning_curve,
    mean_over_course,
    mean_score,
    over_seeds,
    stratified_bootstrap,
    task_curves,
)
from mtrl_fairgrad.config.older_runs import complete
from mtrl_fairgrad.config.schema import flatten
from mtrl_fairgrad.runs.fault_log import Fault, read_faults
from mtrl_fairgrad.runs.metrics_log import RunMetrics, read_metrics
from mtrl_fairgrad.runs.run_dir import Evaluation, RunFolder, RunFolderError

NOT_COMPARED = frozenset(
    {
        "seeds",
        "run_dir",
        "resume",
        "device",
        "threads",
        "deterministic",
        "compile",
        "cuda_graph",
        "updates_per_launch",
    }
    | {
        "env.fast",
        "env.workers",
        "env.worker_timeout",
        "env.worker_restarts",
        "eval.workers",
        "eval.background",
        "eval.full_episodes",
    }
    | {"log_every", "logger", "progress", "preset", "alpha"}
)
"""Options that do not change the meaning of results; `preset` and `alpha` set other options."""
GATHERING = frozenset({"env.copies", "env.stagger"})
"""Options of `env` that are no part of the protocol: how a run gathers the data it learns from."""


MOST_PAIRS = 10_000
"""Largest number of pairs of seed and task; the bootstrap needs memory for each."""


class ReportError(RunFolderError):
    """These runs cannot be reported; the message is one sentence."""


@dataclass
class RunGroup:
    """Runs of one method under one protocol, with their seeds pooled."""

    protocol: str
    """The protocol as one line."""
    config: dict[str, Any]
    """Options that the runs share, by dotted name."""
    folders: list[RunFolder]
    seeds: list[int]
    tasks: list[str]
    env_steps: list[int]
    """`[T]`: evaluations that all seeds have."""
    success: Array
    """`[T, S, K]`."""
    episodes: int
    """Episodes per task and seed in the last evaluation."""
    left_out: int
    """Number of evaluations that only some seeds have."""
    until: int | None = None
    """Last env_steps that are included; None for all."""
    label: str = ""

    @cached_property
    def curve(self) -> Estimate:
        """Success rate, mean over tasks, `[T]`."""
        return learning_curve(self.success)

    @cached_property
    def per_task(self) -> Estimate:
        """Success rate of each task, `[T, K]`."""
        return task_curves(self.success)

    @cached_property
    def final(self) -> Score:
        """Success rate in the last evaluation, mean over tasks."""
        return final(self.success)

    @cached_property
    def best(self) -> Score:
        """Success rate in the best evaluation, mean over tasks."""
        return best_over_course(self.success)

    @cached_property
    def course(self) -> Estimate:
        """Success rate, mean over tasks and over training."""
        return over_seeds(mean_over_course(self.success, self.env_steps), axis=0)

    @cached_property
    def final_interval(self) -> Interval:
        """Interval of the last evaluation's mean over tasks and seeds."""
        return stratified_bootstrap(mean_score, self.success[-1])

    @cached_property
    def final_iqm(self) -> Interval:
        """Interval of the last evaluation's interquartile mean over tasks and seeds."""
        return stratified_bootstrap(interquartile_mean, self.success[-1])

    @cached_property
    def metrics(self) -> list[RunMetrics]:
        """Logged metrics of each folder."""
        return [read_metrics(folder.path, self.until) for folder in self.folders]

    @cached_property
    def faults(self) -> list[Fault]:
        """Numerical faults of all folders, regardless of `until`."""
        return [fault for folder in self.folders for fault in read_faults(folder.path)]

    @property
    def untrained(self) -> int | None:
        """Index of the evaluation before training, if there was one."""
        return 0 if self.env_steps[0] == 0 else None


def pool(folders: Sequence[RunFolder], until: int | None = None) -> list[RunGroup]:
    """Group runs; groups of one protocol are adjacent, otherwise in the given order.

    Args:
        folders: one or more run folders.
        until: last env_steps to include, which also pools runs that differ only in length; None
            includes all.

    Raises:
        ReportError: there are no runs, a run lacks evaluations, or seeds occur twice.
    """
    if not folders:
        raise ReportError("no runs were given: name at least one run folder.")
    runs: dict[tuple[str, str], list[RunFolder]] = {}
    for folder in folders:
        runs.setdefault(run_key(folder, until), []).append(folder)
    first = {protocol: index for index, (protocol, _) in reversed(list(enumerate(runs)))}
    groups = [_group(runs[key], until) for key in sorted(runs, key=lambda key: first[key[0]])]
    _set_labels(groups)
    return groups


def run_key(folder: RunFolder, until: int | None = None) -> tuple[str, str]:
    """Return protocol and options that runs of one group share, in a comparable form."""
    options = _compared(flatten(complete(folder.config)), until)
    protocol = {
        key: value
        for key, value in options.items()
        if key.startswith(("env.", "eval.")) and key not in GATHERING
    }
    protocol["protocol"] = folder.manifest.get("protocol")
    return _canonical(protocol), _canonical(options)


def _group(folders: list[RunFolder], until: int | None) -> RunGroup:
    measured: dict[tuple[int, int, str], Evaluation] = {}
    folder_of_seed: dict[int, Path] = {}
    for folder in folders:
        rows = [row for row in folder.evaluations() if until is None or row.env_steps <= until]
        for seed in sorted({row.seed for row in rows}):
            if seed in folder_of_seed:
                raise ReportError(
                    f"seed {seed} is in both {folder_of_seed[seed]} and {folder.path}: "
                    "leave one out."
                )
            folder_of_seed[seed] = folder.path
        for row in rows:
            if measured.setdefault((row.env_steps, row.seed, row.task), row) is not row:
                raise ReportError(
                    f"{folder.path / 'evaluations.csv'} has two rows for env_steps "
                    f"{row.env_steps}, seed {row.seed}, task {row.task}: delete the wrong one."
                )
    config = flatten(complete(folders[0].config))
    tasks = list(
        dict.fromkeys([*(config.get("env.tasks") or ()), *(row.task for row in measured.values())])
    )
    seeds, steps = sorted(folder_of_seed), sorted({env_steps for env_steps, _, _ in measured})
    if len(seeds) * len(tasks) > MOST_PAIRS:
        raise ReportError(
            f"{folders[0].path} has evaluations of {len(seeds)} seeds and {len(tasks)} tasks: "
            f"a report shows at most {MOST_PAIRS:,} pairs of them."
        )
    common = [t for t in steps if all((t, s, k) in measured for s in seeds for k in tasks)]
    if not common:
        names = ", ".join(str(folder.path) for folder in folders)
        when = "yet" if until is None else f"until env_steps {until:,}"
        raise ReportError(
            f"{names} has no evaluation of all its seeds and tasks {when}: train longer, "
            "or leave it out."
        )
    table = [[[measured[t, s, k] for k in tasks] for s in seeds] for t in common]
    return RunGroup(
        protocol=_protocol(config, folders[0].manifest, tasks),
        config=_compared(config, until),
        folders=folders,
        seeds=seeds,
        tasks=tasks,
        env_steps=common,
        success=np.array([[[row.success for row in seed] for seed in step] for step in table]),
        episodes=min(row.episodes for seed in table[-1] for row in seed),
        left_out=len(steps) - len(common),
        until=until,
    )


def _has_effect(key: str, config: dict[str, Any]) -> bool:
    """Whether an option matters: those of FairGrad's solver sgd do nothing with other solvers."""
    return not key.startswith("method.sgd_") or config.get("method.solver") == "sgd"


def _compared(config: dict[str, Any], until: int | None) -> dict[str, Any]:
    """Return the options that set runs apart."""
    alike = NOT_COMPARED if until is None else NOT_COMPARED | {"steps"}
    return {
        key: value for key, value in config.items() if key not in alike and _has_effect(key, config)
    }


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _protocol(config: dict[str, Any], manifest: dict[str, Any], tasks: list[str]) -> str:
    """Describe in a line such as `mt10 · 10 tasks · horizon 500 · one hot · eval every 10000`."""
    apart = NOT_COMPARED | GATHERING
    options = {key: value for key, value in config.items() if key not in apart}
    env = {
        key.removeprefix("env."): value for key, value in options.items() if key.startswith("env.")
    }
    env |= {key: value for key, value in options.items() if key.startswith("eval.")}
    name = env.pop("name", "unnamed protocol")
    words = [str(name), f"{len(tasks)} tasks" if len(tasks) > 1 else tasks[0]]
    recorded = flatten(manifest.get("protocol", {}))
    for key, value in [
        *env.items(),
        *((key, value) for key, value in recorded.items() if env.get(key) != value),
    ]:
        if key in ("tasks", "task", "task_options", "name") or value is None or value == name:
            continue
        text = key.replace("_", " ").replace(".", " ")
        words.append(
            (text if value else f"no {text}") if isinstance(value, bool) else f"{text} {value}"
        )
    return " · ".join(words)


def _set_labels(groups: list[RunGroup]) -> None:
    """Label each group by its method and the options in which it differs from the others."""
    for group in groups:
        method = group.config.get("method.name", "unnamed method")
        block = [
            other
            for other in groups
            if other.protocol == group.protocol and other.tasks == group.tasks
        ]
        rivals = [other for other in block if other.config.get("method.name", method) == method]
        words: list[str] = []
        for key, value in group.config.items():
            others, part = rivals, key.partition(".")[0]
            if key == "agent.name":
                others = block  # methods may have different agents
            elif part == "method":
                others = [other for other in rivals if _has_effect(key, other.config)]
            elif part in ("agent", "convention"):
                # The name stands for the options, unless two groups of that name differ.
                name = group.config.get(f"{part}.name")
                others = [other for other in rivals if other.config.get(f"{part}.name") == name]
            words += _label_words(
                key, value, differs=any(other.config.get(key) != value for other in others)
            )
        group.label = f"{method} ({', '.join(words)})" if words else str(method)


def _label_words(key: str, value: object, differs: bool) -> list[str]:
    """Return an option's words in a label; most options appear only if groups differ."""
    number = f"{value:g}" if isinstance(value, (int, float)) else str(value)
    if key == "method.alpha":
        return [f"α={number}"]
    if key == "method.solver":
        return [str(value)]
    if key == "agent.name":
        return [str(value)] if differs and value != "mtsac" else []
    if key == "loss_alpha":
        return [] if value is None else [f"loss_alpha={number}"]
    if key == "convention.name":
        return [] if value == "plain" else [f"convention={value}"]
    return [f"{key.removeprefix('method.')}={value}"] if differs and key != "method.name" else []


def check_one_protocol(groups: Sequence[RunGroup]) -> None:
    """Reject groups whose numbers must not be averaged or compared.

    Raises:
        ReportError: two of them were measured under different protocols or on different tasks.
    """
    first = groups[0]
    for other in groups[1:]:
        if (first.protocol, first.tasks) != (other.protocol, other.tasks):
            raise ReportError(
                f"{first.label} was measured under “{first.protocol}” and {other.label} under "
                f"“{other.protocol}”: different protocols are never averaged or compared, "
                "so take groups of one block."
            )


def blocks_of(groups: Sequence[RunGroup]) -> list[list[RunGroup]]:
    """Split adjacent groups by protocol and tasks."""
    blocks: list[list[RunGroup]] = []
    for group in groups:
        if blocks and (blocks[-1][0].protocol, blocks[-1][0].tasks) == (
            group.protocol,
            group.tasks,
        ):
            blocks[-1].append(group)
        else:
            blocks.append([group])
    return blocks


def protocol_of(folder: RunFolder, tasks: Sequence[str]) -> str:
    """Describe the protocol of a run in one line."""
    return _protocol(flatten(complete(folder.config)), folder.manifest, list(tasks))
