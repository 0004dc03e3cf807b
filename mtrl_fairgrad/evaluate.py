"""Evaluate the policy of a run, or an exported one: `python -m mtrl_fairgrad.evaluate RUN`.

Each of 50 goals is played exactly once. A goal distinguishes a task's episodes: Meta-World's goal
(one where goals are frozen), Gymnasium's reset seed. Environments are made as in training; for a
run of env=gymnasium this imports the modules that it names, so evaluate only runs from people you
trust. RUN is a run folder, or the .json or .pt2 of an exported policy, which is evaluated under the
protocol in its description (loading a policy may run code). The command writes a table of success,
`return` of whole episodes and `return_until_success`, goals.csv with every episode and goals.png
with a map of every task; `--video` records episodes, `--pictures` draws them, and `--export` writes
the policy as a program that runs without this project, with its model card.
"""

from __future__ import annotations

import argparse
import sys

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from mtrl_fairgrad.evaluation.runner import EvaluationOptions, run_evaluation
from mtrl_fairgrad.runs.run_dir import RunFolderError
from mtrl_fairgrad.utils.arguments import (
    Parser,
    fail,
    fail_with_traceback,
    integer_argument,
    path_argument,
)
from mtrl_fairgrad.utils.entry_point import entry_point
from mtrl_fairgrad.utils.validation import ConfigError


@entry_point
def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        options = EvaluationOptions(**vars(_parser().parse_args(arguments)))
        from mtrl_fairgrad.envs.workers.pool import WorkerError, WorkerLost

        try:
            run_evaluation(options)
        except WorkerLost as lost:
            return fail(
                f"{lost.loss}: unless it was killed on purpose, "
                "check the memory of this machine, and evaluate again.",
                code=1,
            )
        except WorkerError as error:
            return fail_with_traceback(error)
    except (ConfigError, RunFolderError) as error:
        return fail(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m mtrl_fairgrad.evaluate", description=__doc__)
    parser.add_argument(
        "run", type=path_argument, help="a run folder, or the .json or .pt2 of an exported policy"
    )
    parser.add_argument(
        "--step", type=integer_argument, help="env_steps of the checkpoint (default: the newest)"
    )
    parser.add_argument(
        "--goals", type=integer_argument, help="number of goals of each task (default: all)"
    )
    parser.add_argument(
        "--workers", type=integer_argument, help="simulator processes (default: one per core)"
    )
    parser.add_argument(
        "--stop-at-success",
        action="store_true",
        help="end Meta-World's episodes at the first success: faster, but `return` is left empty",
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="DIR",
        help="where to write (default: in the run folder)",
    )
    parser.add_argument(
        "--video",
        type=path_argument,
        nargs="?",
        const=True,
        metavar="DIR",
        help="record an episode of every task as a video into DIR (default: films)",
    )
    parser.add_argument(
        "--pictures",
        type=path_argument,
        nargs="?",
        const=True,
        metavar="DIR",
        help="draw an animation of all tasks and a film strip of each into DIR (default: pictures)",
    )
    parser.add_argument(
        "--video-goal",
        type=integer_argument,
        metavar="N",
        help="goal of videos and pictures (default: the first that is played)",
    )
    parser.add_argument("--video-tasks", metavar="A,B", help="record only these tasks")
    parser.add_argument(
        "--export",
        type=path_argument,
        nargs="?",
        const=True,
        metavar="DIR",
        help="write each seed's policy as a program into DIR (default: policies)",
    )
    parser.add_argument(
        "--seed",
        type=integer_argument,
        help="record and export this seed (default: record the first, export all)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
