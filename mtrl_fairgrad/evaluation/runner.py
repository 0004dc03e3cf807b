"""Evaluate a policy: check the options, play the goals, and write the requested files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.utils.atomic_io import make_folders, writing_remedy
from mtrl_fairgrad.utils.clean_text import clean
from mtrl_fairgrad.utils.validation import ConfigError

if TYPE_CHECKING:  # user errors are reported before these are imported
    import numpy as np
    from numpy.typing import NDArray

    from mtrl_fairgrad.evaluation.policy_export import Program
    from mtrl_fairgrad.evaluation.target import EvaluationTarget
    from mtrl_fairgrad.evaluation.videos import VideoSpec

POLICY_SUFFIXES = (".json", ".pt2")
"""Suffixes of the files of an exported policy."""


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of the command; None where they are not given."""

    run: Path
    step: int | None = None
    goals: int | None = None
    stop_at_success: bool = False
    workers: int | None = None
    out: Path | None = None
    video: Path | Literal[True] | None = None
    """True for the default folder, like `export`."""
    video_goal: int | None = None
    video_tasks: str | None = None
    pictures: Path | Literal[True] | None = None
    export: Path | Literal[True] | None = None
    seed: int | None = None

    @property
    def is_policy(self) -> bool:
        """Whether `run` is an exported policy rather than a run folder."""
        return self.run.suffix in POLICY_SUFFIXES and not self.run.is_dir()

    def check(self) -> None:
        """Raise ConfigError for an option that is out of range or has no effect."""
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--workers {self.workers} is out of range: give 0 or more.")
        recorded = self.video is not None or self.pictures is not None
        if not recorded:
            options = {"--video-goal": self.video_goal, "--video-tasks": self.video_tasks}
            for name, value in options.items():
                if value is not None:
                    raise ConfigError(f"{name} {value} has no effect without a video: add --video.")
        if self.seed is not None and not recorded and self.export is None:
            raise ConfigError(
                f"--seed {self.seed} has no effect without a video or export: "
                "add --video or --export."
            )
        if not self.is_policy:
            return
        for_runs = {"--step": self.step, "--export": self.export}
        for name, value in for_runs.items():
            if value is not None:
                raise ConfigError(
                    f"{name} is for run folders, but {self.run.name} is an exported policy (one "
                    f"checkpoint of one seed): drop {name}."
                )


@dataclass(frozen=True)
class EvaluationPlan:
    """Existing output folders and their future content."""

    out: Path
    video: VideoSpec | None
    export: Path | None
    exported_seeds: tuple[int, ...]
    """Indices of seeds, 0 … S − 1."""


def run_evaluation(options: EvaluationOptions) -> Path:
    """Evaluate a policy; returns the path of `evaluation-<env_steps>-<goals>-goals.csv`.

    Raises:
        ConfigError: an option cannot be used.
        RunFolderError: there is no run or no intact checkpoint.
        WorkerLost: a simulator process died or hung.
        WorkerError: a simulator raised an error.
    """
    options.check()
    if not options.is_policy:
        RunFolder.open(options.run)  # a wrong folder is refused before PyTorch is imported
    from mtrl_fairgrad.evaluation.target import open_policy, open_run

    if options.is_policy:
        target = open_policy(options.run, options.workers)
    else:
        target = open_run(options.run, options.step, options.workers)
    target.config.eval.full_episodes = not options.stop_at_success
    return evaluate_target(target, options)


def evaluate_target(target: EvaluationTarget, options: EvaluationOptions) -> Path:
    """Play the goals, print the results and write all files; returns the table's path."""
    from mtrl_fairgrad.agents import on_rows
    from mtrl_fairgrad.envs.evaluation import all_goals, evaluate
    from mtrl_fairgrad.evaluation.model_card import write_card
    from mtrl_fairgrad.evaluation.outputs import compare, print_faults, print_table, write
    from mtrl_fairgrad.evaluation.policy_export import describe, export, scores, to_program
    from mtrl_fairgrad.evaluation.videos import record_videos
    from mtrl_fairgrad.training.factory import make_envs, make_suite
    from mtrl_fairgrad.training.worker_restarts import collect_losses

    config, tasks = target.config, target.tasks
    suite = make_suite(config, tasks)
    goals = _first_goals(all_goals(suite, config.seeds), options.goals)
    plan = make_plan(target, options)
    programs: dict[int, Program] = {}
    if plan.export is not None:
        for s in plan.exported_seeds:
            programs[s] = to_program(target.modules[s], suite.observation_size)
    on_lost = collect_losses([], config.env.worker_restarts)
    with make_envs(config, tasks, True, on_lost) as envs:
        result = evaluate(envs, on_rows(target.act, len(config.seeds)), goals)
        spaces: Any = (envs.single_observation_space, envs.single_action_space)
    print(clean(target.protocol))
    print_table(config, tasks, target.env_steps, result.success)
    print_faults(config, tasks, result.non_finite)
    if target.exported is not None:
        compare(target.exported.description["result"], scores(tasks, result.success[0]))
    path = write(plan.out, config, tasks, target.env_steps, goals, result, target.protocol)
    if plan.export is not None:
        training, protocol = _provenance(target)
        for s, program in programs.items():
            result_of_seed = scores(tasks, result.success[s])
            description = describe(
                config, config.seeds[s], spaces, training, protocol, result_of_seed
            )
            policy = export(program, description, plan.export)
            print(clean(f"exported: {policy} and its .pt2"))
        if card := write_card(plan.export):
            print(clean(f"written: {card}"))
    if plan.video is not None:
        record_videos(config, target.act, target.env_steps, plan.video)
    return path


def make_plan(target: EvaluationTarget, options: EvaluationOptions) -> EvaluationPlan:
    """Make the output folders and check that videos can be rendered, before hours of simulation.

    Raises:
        ConfigError: a seed, task or goal is not in the run, or a folder cannot be made.
    """
    seeds = target.config.seeds
    if options.seed is not None and options.seed not in seeds:
        raise ConfigError(
            f"--seed {options.seed} is not in this run: choose from {', '.join(map(str, seeds))}."
        )
    chosen = range(len(seeds)) if options.seed is None else (seeds.index(options.seed),)
    tasks = tuple(options.video_tasks.split(",")) if options.video_tasks else target.tasks
    for task in tasks:
        if task not in target.tasks:
            raise ConfigError(
                f"--video-tasks: {task} is not in this run: choose from {', '.join(target.tasks)}."
            )
    out = options.out or target.folder
    export = out / "policies" if options.export is True else options.export
    # The folder beside a policy, which somebody else may have made, may not be a link.
    beside = out.parent if target.exported is not None and options.out is None else None
    for name, directory, root in (
        ("--out", out, beside),
        ("--export", export, out if options.export is True else None),
    ):
        try:
            if directory is not None:
                make_folders(directory, root)
        except OSError as error:
            raise ConfigError(
                f"{name} {directory} cannot be made ({error.strerror}): "
                f"{writing_remedy(error, 'choose another folder')}."
            ) from error
    video = _plan_recording(target, options, out, chosen[0], tasks)
    return EvaluationPlan(out, video, export, tuple(chosen))


def _plan_recording(
    target: EvaluationTarget, options: EvaluationOptions, out: Path, seed: int, tasks: Sequence[str]
) -> VideoSpec | None:
    """Make the folders of videos and pictures; None if neither is asked for."""
    from mtrl_fairgrad.evaluation.videos import VideoSpec, check_rendering, check_video

    asked = {
        "--video": (options.video, out / "films"),
        "--pictures": (options.pictures, out / "pictures"),
    }
    folders: dict[str, Path] = {}
    backend = ""
    for option, (value, default) in asked.items():
        if value is not None:
            given = isinstance(value, Path)
            folders[option] = value if given else default
            backend = check_video(option, folders[option], None if given else out)
    if not folders:
        return None
    goal = _check_video_goal(target, options.video_goal)
    check_rendering(target.config, tasks, backend, next(iter(folders)))
    return VideoSpec(folders.get("--video"), folders.get("--pictures"), backend, seed, tasks, goal)


def _first_goals(goals: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """Select the first `count` of all goals `[S, K, E]`; all if it is None."""
    total = goals.shape[-1]
    if count is not None and not 1 <= count <= total:
        allowed = (
            f"{total} goals, give 1 to {total}" if total > 1 else "one goal, so leave --goals out"
        )
        raise ConfigError(f"--goals {count} is out of range: a task has {allowed}.")
    return goals[..., :count]


def _check_video_goal(target: EvaluationTarget, goal: int | None) -> int | None:
    from mtrl_fairgrad.training.factory import make_suite

    suite = make_suite(target.config, target.tasks)
    if goal is not None and not 0 <= goal < suite.goal_count:
        raise ConfigError(
            f"--video-goal {goal} is out of range: a task has goals 0 to {suite.goal_count - 1}."
        )
    return goal


def _provenance(target: EvaluationTarget) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments `training` and `protocol` of `policy_export.describe`."""
    from mtrl_fairgrad.training.factory import methods_by_network

    manifest = target.manifest or {}
    training = {
        "env_steps": target.env_steps,
        "updates": target.updates,
        "methods": methods_by_network(target.config),
        **{key: manifest.get(key) for key in ("started", "versions", "git")},
    }
    return training, {"in_words": target.protocol, **manifest.get("protocol", {})}
