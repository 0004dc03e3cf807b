"""Kill and suspend the simulator workers of a training run at random times, and check the run.

    python scripts/kill_workers.py [--kills 50] [--seed 0] [--folder DIR]

A tiny run on Gymnasium's Pendulum has two workers for training and one for evaluation. A thread
sends SIGKILL, every fifth time SIGSTOP, to one of them after a random number of env_steps,
sometimes while another is being replaced, and at first while they start. The run must end by itself
with every evaluation, one replacement counted for each signal, one row of the replay buffer for
each env_step, a last evaluation that is reproduced from its checkpoint in this process, and no
process left. The exit code is 1 if any check fails.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mtrl_fairgrad import evaluate, train
from mtrl_fairgrad.analysis.verification import verify
from mtrl_fairgrad.runs.checkpoint.index import Index
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training import factory
from mtrl_fairgrad.training.trainer import Trainer
from mtrl_fairgrad.utils.entry_point import entry_point

TINY = [
    "env=gymnasium", "env.tasks=[Pendulum-v1,Pendulum-v1]", "env.task_options=[{g: 10.0},{g: 5.0}]",
    "env.success_return=-30", "env.horizon=20", "seeds=[0,1]", "env.workers=2",
    "eval.workers=1", "eval.episodes=5", "agent.width=8", "agent.batch_size=8",
    "agent.warmup_steps=10", "method=ls", "log_every=50", "progress=false", "threads=1",
    "device=cpu", "env.worker_timeout=4",
]  # fmt: skip
STEPS_PER_KILL = 30
EARLY_KILLS = 2
"""Kills before training begins."""
START_SECONDS = 1.5
"""Time in which a worker starts."""


class Killer(threading.Thread):
    """Sends signals to workers while `trainer` trains."""

    def __init__(self, kills: int, rng: random.Random) -> None:
        super().__init__(daemon=True)
        last = kills * STEPS_PER_KILL
        self._times = sorted(rng.randrange(last) for _ in range(kills))
        self._rng = rng
        self.trainer: Trainer | None = None
        self.over = False
        self.stops = 0
        self.signalled: list[int] = []

    @property
    def env_steps(self) -> int:
        """The trainer's; -1 before there is one."""
        return -1 if self.trainer is None else self.trainer.env_steps

    def run(self) -> None:
        for number, env_steps in enumerate(self._times):
            while not self.over and number >= EARLY_KILLS and self.env_steps < env_steps:
                time.sleep(0.0005)
            time.sleep(self._rng.choice([0.0, 0.002, START_SECONDS * self._rng.random()]))
            free: list[int] = []
            while not self.over and not free:
                free = [pid for pid in workers() if pid not in self.signalled]
                time.sleep(0.001)
            if self.over:
                return
            victim, stop = self._rng.choice(sorted(free)), number % 5 == 4
            os.kill(victim, signal.SIGSTOP if stop else signal.SIGKILL)
            self.stops += stop
            self.signalled.append(victim)


def workers(learner: int | None = None) -> list[int]:
    """Return the ids of a process's simulator workers, without Python's resource tracker.

    Args:
        learner: its id; None for this process.
    """
    pids: list[int] = []
    learner = learner or os.getpid()
    for pid in Path(f"/proc/{learner}/task/{learner}/children").read_text().split():
        with contextlib.suppress(OSError):  # the process has just ended
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                pids.append(int(pid))
    return pids


def problems(folder: Path, steps: int, killer: Killer, code: int) -> list[str]:
    """Return the checks that fail."""
    if code:
        return [f"exit code {code}"]
    run = RunFolder.open(folder)
    ring, state = Index.read(run.checkpoints()[0]).ring, run.load_checkpoint(groups=()).state
    rows = read(folder / "evaluations.csv")
    evaluate.main([str(folder), "--workers", "0"])
    again = read(next(folder.glob("evaluation-*-goals.csv")))
    last = [row for row in rows if row["env_steps"] == str(steps)]
    numbers = ("seed", "task", "success", "return", "return_until_success")
    checks: dict[str, Any] = {
        f"replacements {state['replaced']} for {len(killer.signalled)} signals": sum(
            state["replaced"].values()
        )
        == len(killer.signalled),
        f"only {len(killer.signalled)} signals were sent": not killer.is_alive(),
        "rows of the replay were lost or doubled": ring is not None and ring.added == steps,
        "mtrl_fairgrad.verify reports problems": not any(
            finding.problems for finding in verify(run)
        ),
        "the last evaluation is not reproduced": [[row[key] for key in numbers] for row in again]
        == [[row[key] for key in numbers] for row in last],
        f"processes left: {workers()}": not workers(),
    }
    return [text for text, holds in checks.items() if not holds]


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@entry_point
def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    parser.add_argument(
        "--folder",
        type=Path,
        help="the run folder, kept (default: a temporary one)",
    )
    given = parser.parse_args()
    # The steps after the last signal take longer than starting a worker.
    steps = given.kills * STEPS_PER_KILL + 400
    killer, made = Killer(given.kills, random.Random(given.seed)), factory.make_trainer

    def make_trainer(*arguments: Any) -> Trainer:
        killer.trainer = made(*arguments)
        return killer.trainer

    factory.make_trainer = make_trainer
    train.finish = lambda folder: 0  # the report would only take time
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "run"
        more = [f"steps={steps}", f"eval.every={steps // 10}", f"env.worker_restarts={given.kills}"]
        killer.start()
        started = time.monotonic()
        code = train.main([*TINY, *more, f"agent.buffer_size={steps}", f"run_dir={folder}"])
        seconds, killer.over = time.monotonic() - started, True
        killer.join()
        wrong = problems(folder, steps, killer, code)
        counts = {} if code else RunFolder.open(folder).load_checkpoint(groups=()).state["replaced"]
    print(
        f"{len(killer.signalled)} signals ({killer.stops} of them SIGSTOP) in a run of {steps} "
        f"steps and {seconds:.0f} s; replaced: {counts}; {len(wrong)} problems"
    )
    for problem in wrong:
        print(problem)
    return 1 if wrong else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
