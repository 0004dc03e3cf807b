"""Evaluate a run's policy, or an exported one: `python -m mtrl_fairgrad.evaluate RUN`, each of 50
goals exactly once.

A goal is what tells a task's episodes apart: Meta-World's goal (one where goals are frozen),
Gymnasium's reset seed. The tasks are made as in training: modules that a run of env=gymnasium names
are imported, so know whose run it is. RUN is a run folder, or the .json or .pt2 of an exported
policy, which is evaluated under the protocol it names (load only policies whose author you trust:
loading one may run code). Written are a table of success and return, goals.csv with every episode
and goals.png with a map for every task; `--video` films episodes, `--export` writes the policy as a
program that runs without this project.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from mtrl_fairgrad.config.schema import Config, check_parts, from_stored
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.utils.arguments import Parser, fail, named
from mtrl_fairgrad.utils.validation import ConfigError, check_device

if TYPE_CHECKING:  # a mistake of the command line is told before these are imported
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from mtrl_fairgrad.evaluation.policy_export import ExportedPolicy
    from mtrl_fairgrad.evaluation.videos import Shooting
    from mtrl_fairgrad.training.factory import Agent

ENDINGS = (".json", ".pt2")
"""Of exported policies."""
BESIDE = Path("beside-the-results")
"""Stands for a folder that was not named."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a run's checkpoint (with its `agent`), or an exported policy (`exported`)."""

    folder: Path
    """Where results go unless told otherwise."""
    config: Config
    tasks: tuple[str, ...]
    env_steps: int
    act: Callable[[Tensor], Tensor]
    """Modes `[S, K, A]` for observations `[S, K, O]`."""
    protocol: str
    """What is measured, in a line."""
    agent: Agent | None = None
    manifest: dict[str, Any] | None = None
    exported: ExportedPolicy | None = None

    def policy(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions `[S·K, A]` for observations `[S·K, O]`."""
        from torch import from_numpy

        shaped = observations.reshape(len(self.config.seeds), len(self.tasks), -1)
        return self.act(from_numpy(shaped)).flatten(0, 1).cpu().numpy()


def main(arguments: list[str] | None = None) -> int:
    """Evaluate, print the table, write it beside the run; returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
        subject = _open(options)
        from mtrl_fairgrad.envs.workers.pool import WorkerError, WorkerLost

        try:
            evaluate_run(options, subject)
        except WorkerLost as lost:
            return fail(
                f"{lost.loss}: if nobody killed it, look for a lack of memory, and evaluate again.",
                code=1,
            )
        except WorkerError as error:
            return fail(error, code=1)
    except (ConfigError, RunFolderError) as error:
        return fail(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m mtrl_fairgrad.evaluate", description=__doc__)
    parser.add_argument(
        "run", type=named, help="a run folder, or the .json or .pt2 of an exported policy"
    )
    parser.add_argument(
        "--step", type=int, help="env_steps of the checkpoint (default: the newest)"
    )
    parser.add_argument("--goals", type=int, help="how many of each task's goals (default: all)")
    parser.add_argument("--workers", type=int, help="simulator processes (default: one per core)")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    parser.add_argument(
        "--out", type=named, metavar="DIR", help="where to write (default: in the run folder)"
    )
    video = {"type": named, "nargs": "?", "const": BESIDE, "metavar": "DIR"}
    parser.add_argument(
        "--video", **video, help="film an episode of every task into DIR (default: films)"
    )
    parser.add_argument(
        "--video-goal",
        type=int,
        metavar="N",
        help="which goal is filmed (default: the first that is played)",
    )
    parser.add_argument("--video-tasks", metavar="A,B", help="film only these tasks")
    parser.add_argument(
        "--export",
        **video,
        help="write each seed's policy as a program into DIR (default: policies)",
    )
    parser.add_argument(
        "--seed", type=int, help="film and export this seed (default: film the first, export all)"
    )
    return parser


def evaluate_run(options: argparse.Namespace, subject: Subject) -> Path:
    """Play the goals, print and write everything asked for; returns
    `evaluation-<env_steps>-<goals>-goals.csv`.
    """
    from mtrl_fairgrad.envs.evaluation import all_goals, evaluate
    from mtrl_fairgrad.evaluation.outputs import compare, print_table, write
    from mtrl_fairgrad.evaluation.policy_export import describe, export, scores
    from mtrl_fairgrad.evaluation.videos import film
    from mtrl_fairgrad.training.factory import make_envs, make_suite

    config, tasks = subject.config, subject.tasks
    goals = _chosen(all_goals(make_suite(config, tasks), config.seeds), options.goals)
    plan = _prepare(options, subject)
    with make_envs(config, tasks, evaluation=True) as envs:
        found = evaluate(envs, subject.policy, goals)
        spaces: Any = (envs.single_observation_space, envs.single_action_space)
    print(subject.protocol)
    print_table(config, tasks, subject.env_steps, found.success)
    if subject.exported is not None:
        compare(subject.exported.description["result"], scores(tasks, found.success[0]))
    path = write(plan.out, config, tasks, subject.env_steps, goals, found, subject.protocol)
    if plan.export is not None and subject.agent is not None:
        for s in plan.exported:
            result = scores(tasks, found.success[s])
            described = describe(config, config.seeds[s], spaces, *_origin(subject), result)
            print(f"exported: {export(subject.agent, s, described, plan.export)} and its .pt2")
    if plan.film is not None:
        film(config, subject.act, subject.env_steps, plan.film)
    return path


# ---- what is evaluated ----


def _open(options: argparse.Namespace) -> Subject:
    """Find what is to be evaluated, once nothing speaks against the options."""
    _check(options)
    exported = options.run.suffix in ENDINGS and not options.run.is_dir()
    return _open_policy(options) if exported else _open_run(options)


def _check(options: argparse.Namespace) -> None:
    """Refuse what is out of range, and what would be ignored."""
    check_device(options.device)
    if options.workers is not None and options.workers < 0:
        raise ConfigError(f"--workers {options.workers} is out of range: give 0 or more.")
    if options.video is None:
        for name, given in (
            ("--video-goal", options.video_goal),
            ("--video-tasks", options.video_tasks),
        ):
            if given is not None:
                raise ConfigError(f"{name} {given} changes nothing without a film: add --video.")
    if options.seed is not None and options.video is None and options.export is None:
        raise ConfigError(
            f"--seed {options.seed} changes nothing without a film or export: add --video or "
            "--export."
        )


def _chosen(goals: NDArray[np.int64], count: int | None) -> NDArray[np.int64]:
    """The first `count` of all goals `[S, K, E]`, all if it is None."""
    every = goals.shape[-1]
    if count is not None and not 1 <= count <= every:
        allowed = (
            f"{every} goals, give 1 to {every}" if every > 1 else "one goal, so leave --goals out"
        )
        raise ConfigError(f"--goals {count} is out of range: a task has {allowed}.")
    return goals[..., :count]


def _open_run(options: argparse.Namespace) -> Subject:
    folder = RunFolder.open(options.run)
    config = from_stored(folder.config, folder.path / "config.yaml")
    from mtrl_fairgrad.analysis.run_groups import protocol_of
    from mtrl_fairgrad.utils.device import resolve_device

    check_parts(config)
    config.eval.workers = options.workers
    tasks = tuple(config.env.tasks or ())
    device = resolve_device(options.device)
    agent, env_steps = load_agent(folder, config, tasks, device, options.step)

    def act(observations: Tensor) -> Tensor:
        return agent.act(observations.to(device))

    return Subject(
        folder.path,
        config,
        tasks,
        env_steps,
        act,
        protocol_of(folder, tasks),
        agent,
        folder.manifest,
    )


def _open_policy(options: argparse.Namespace) -> Subject:
    refused = {
        "--step": options.step,
        "--export": options.export,
        "--device": None if options.device in ("auto", "cpu") else options.device,
    }
    for name, given in refused.items():
        if given is not None:
            raise ConfigError(
                f"{name} is for run folders: {options.run.name} is an exported policy, one "
                "checkpoint of one seed that "
                f"runs on the CPU, so drop {name}."
            )
    from mtrl_fairgrad.evaluation.policy_export import load_policy

    exported = load_policy(options.run)
    config = from_stored(exported.description["config"], exported.path)
    check_parts(config)
    config.eval.workers = options.workers
    steps, folder = exported.description["training"]["env_steps"], exported.path.with_suffix("")
    tasks = tuple(config.env.tasks or ())
    out, protocol = (
        folder.with_name(f"{folder.name}-evaluation"),
        exported.description["protocol"]["in_words"],
    )
    return Subject(out, config, tasks, steps, exported.act, str(protocol), exported=exported)


def load_agent(
    folder: RunFolder, config: Config, tasks: tuple[str, ...], device: Any, step: int | None
) -> tuple[Agent, int]:
    """The agent of a checkpoint, and the checkpoint's env_steps."""
    from mtrl_fairgrad.training.factory import make_agent, make_suite

    saved = folder.load_checkpoint(step, groups=("agent",))
    suite = make_suite(config, tasks)
    agent = make_agent(config, len(tasks), suite.observation_size, suite.action_size, device)
    try:
        agent.load_state(saved.groups["agent"])
    except (ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"the checkpoint in {folder.path} does not fit its own configuration: {error}"
        ) from None
    return agent, saved.env_steps


# ---- what is made of it ----


@dataclass(frozen=True)
class Plan:
    """Folders, all there, and what goes into them."""

    out: Path
    film: Shooting | None
    export: Path | None
    exported: tuple[int, ...]
    """Places of seeds, 0 … S − 1."""


def _prepare(options: argparse.Namespace, subject: Subject) -> Plan:
    """Make the folders and find out whether films can be drawn, before hours of simulation."""
    from mtrl_fairgrad.evaluation.videos import Shooting, check_video

    seeds, out = subject.config.seeds, options.out or subject.folder
    if options.seed is not None and options.seed not in seeds:
        raise ConfigError(
            f"--seed {options.seed} is not in this run: choose from {', '.join(map(str, seeds))}."
        )
    chosen = [seeds.index(options.seed)] if options.seed is not None else list(range(len(seeds)))
    tasks = tuple(options.video_tasks.split(",")) if options.video_tasks else subject.tasks
    for task in tasks:
        if task not in subject.tasks:
            raise ConfigError(
                f"--video-tasks: {task} is not in this run: choose from {', '.join(subject.tasks)}."
            )
    films = out / "films" if options.video is BESIDE else options.video
    export = out / "policies" if options.export is BESIDE else options.export
    for name, directory in (("--out", out), ("--export", export)):
        try:
            if directory is not None:
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{name} {directory} cannot be made ({error.strerror}): choose another folder."
            ) from None
    film = (
        None
        if films is None
        else Shooting(films, check_video(films), chosen[0], tasks, _filmed(options, subject))
    )
    return Plan(out, film, export, tuple(chosen))


def _filmed(options: argparse.Namespace, subject: Subject) -> int | None:
    """The goal that was asked for, if any."""
    from mtrl_fairgrad.training.factory import make_suite

    suite = make_suite(subject.config, subject.tasks)
    if options.video_goal is not None and not 0 <= options.video_goal < suite.goal_count:
        raise ConfigError(
            f"--video-goal {options.video_goal} is out of range: a task has goals 0 to "
            f"{suite.goal_count - 1}."
        )
    return options.video_goal


def _origin(subject: Subject) -> tuple[dict[str, Any], dict[str, Any]]:
    """How the policy came about, and the run's protocol, as `policies.describe` takes them."""
    from mtrl_fairgrad.training.factory import methods_by_network

    manifest = subject.manifest or {}
    updates = None if subject.agent is None else int(subject.agent.updates)
    training = {
        "env_steps": subject.env_steps,
        "updates": updates,
        "methods": methods_by_network(subject.config),
    }
    protocol = {"in_words": subject.protocol, **manifest.get("protocol", {})}
    return training | {key: manifest.get(key) for key in ("started", "versions", "git")}, protocol


if __name__ == "__main__":
    sys.exit(main())
