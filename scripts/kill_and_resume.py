"""Kill a tiny run at random times, resume it until it ends, and compare it with an undisturbed run.

    python scripts/kill_and_resume.py [--kills 200] [--suite NAME] [--seed 0] [--power]

A run is started in its folder (`resume=auto`) and killed (SIGKILL) after a random part of the time
of a whole run, again and again until it ends by itself. Then its last parameters, Adam moments and
random streams, its replay buffer, evaluations.csv and every logged scalar except speeds must equal
those of the undisturbed run bit for bit, each exactly once, and `mtrl_fairgrad.verify` must find
nothing. Further runs follow until the number of kills is reached. The exit code is 1 if any check
fails.

With `--power` the power of the disk is cut before each kill, and once more when a run has ended: an
ext4 file system in a file, which root may mount, then loses everything that was not synced.

Runs are forked from this process, which has imported everything, so that they spend most of their
time training. They write a checkpoint every few steps, each with a replay segment of its own.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch._dynamo  # the optimisers import it
from hydra import compose, initialize_config_dir
from loop_disk import LoopDisk

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mtrl_fairgrad.training.factory  # noqa: F401, for the child processes
from mtrl_fairgrad import train
from mtrl_fairgrad.analysis.verification import verify
from mtrl_fairgrad.config.groups import config_dir
from mtrl_fairgrad.config.schema import Config, ConfigError, from_hydra
from mtrl_fairgrad.runs.checkpoint.index import Index
from mtrl_fairgrad.runs.checkpoint.store import CheckpointStore
from mtrl_fairgrad.runs.metric_entries import WORKERS_REPLACED
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.atomic_io import content_of
from mtrl_fairgrad.utils.entry_point import entry_point

TINY = [
    "env.workers=0", "eval.workers=0", "eval.episodes=1", "agent.width=8", "agent.batch_size=8",
    "agent.buffer_size=25", "agent.warmup_steps=10", "method.solver=newton", "log_every=5",
    "progress=false", "threads=1", "device=cpu", "resume=auto",
]  # fmt: skip
_GYMNASIUM = [
    "env=gymnasium", "env.tasks=[Pendulum-v1,Pendulum-v1]", "env.task_options=[{g: 10.0},{g: 5.0}]",
    "env.success_return=-30", "env.horizon=6", "eval.every=4",
]  # fmt: skip
SUITES = {
    # Checkpoints within episodes; resuming replays these episodes.
    "gymnasium": [*_GYMNASIUM, "steps=60"],
    # The same while an evaluation runs in the background.
    "background": [*_GYMNASIUM, "steps=60", "eval.workers=1", "eval.background=true"],
    # The same with copies, of which one half is always running.
    "copies": [*_GYMNASIUM, "env.copies=4", "agent.n_step=2", "steps=240", "eval.every=16"],
    "stagger": [
        *_GYMNASIUM,
        *("env.copies=4", "env.stagger=true", "env.workers=2", "steps=240", "eval.every=16"),
    ],
    # The same with Meta-World.
    "mt1": ["env=mt1", "env.task=reach-v3", "env.horizon=10", "steps=60", "eval.every=4"],
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Configuration and command line of a run."""

    config: Config
    overrides: list[str]

    @classmethod
    def compose(cls, suite: str, *more: str) -> Run:
        """Return the tiny run of a suite with further overrides."""
        overrides = [*TINY, *SUITES[suite], *more]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return cls(from_hydra(compose("config", overrides=overrides), overrides), overrides)


@dataclass
class Tally:
    """Counts of what happened so far."""

    kills: int = 0
    runs: int = 0
    while_writing: int = 0
    """Kills that left a partly written file."""
    before_a_checkpoint: int = 0
    """Kills before the first checkpoint."""
    while_evaluating: int = 0
    """Kills of runs whose newest checkpoint was written during an evaluation."""
    failures: list[str] = field(default_factory=list)


def start(run: Run, folder: Path, log: Path, prepare: Callable[[], object] = lambda: None) -> int:
    """Start or resume the run in a new process, the leader of a session; return its process id.

    Args:
        run: what to run.
        folder: the run folder.
        log: file that the output is appended to.
        prepare: called in the new process before the run.
    """
    child = os.fork()
    if child:
        while os.getsid(child) != child:  # signals are sent to all of its processes
            time.sleep(0.0005)
        return child
    code = 70
    try:
        os.setsid()
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(written, 1)
        os.dup2(written, 2)
        config = copy.deepcopy(run.config)
        config.run_dir = str(folder)
        prepare()
        code = train.start(config, run.overrides)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except (ConfigError, RunFolderError) as error:
        code = fail(error)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 70)  # whatever it is: nothing else runs here


def wait_for(child: int, seconds: float) -> int | None:
    """Wait for a process; return its exit code, or None if it still runs after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        over, status = os.waitpid(child, os.WNOHANG)
        if over:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def kill(child: int) -> int | None:
    """Kill a process; return its exit code if it had already ended, otherwise None."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def result(path: Path) -> dict[str, object]:
    """Return the final state of a run by name, in a form that compares every bit.

    How often a worker was replaced is left out: evaluations do not depend on it.
    """
    folder = RunFolder.open(path)
    newest = folder.checkpoints()[0]
    last = folder.load_checkpoint()
    tensors = {
        f"{group}/{name}": (
            tensor.dtype,
            tensor.shape,
            tensor.contiguous().flatten().view(torch.uint8).tolist(),
        )
        for group, tensors in last.groups.items()
        for name, tensor in tensors.items()
    }
    ring = Index.read(newest).ring
    assert ring is not None
    rows = b"".join((folder.store.segments / each.name).read_bytes() for each in ring.segments)
    row_bytes = len(rows) // (ring.added - ring.segments[0].start)
    newest_rows = rows[-row_bytes * min(ring.added, ring.shape[0]) :]
    return {
        **tensors,
        "env_steps": last.env_steps,
        "simulators": {key: value for key, value in last.state.items() if key != "replaced"},
        "replay": (ring.added, ring.shape, newest_rows),
        "evaluations.csv": content_of(path / "evaluations.csv"),
        **scalars(path),
    }


def scalars(path: Path) -> dict[str, object]:
    """Return (step, value) of every TensorBoard tag, except those that depend on the machine."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    machine = ("speed/", WORKERS_REPLACED)
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(machine)]
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in tags}


def differences(path: Path, expected: dict[str, object]) -> list[str]:
    """Return what differs from the undisturbed run."""
    actual = result(path)
    failures = [
        name
        for name in sorted(actual.keys() | expected.keys())
        if actual.get(name) != expected.get(name)
    ]
    if any(finding.problems for finding in verify(RunFolder.open(path))):
        failures.append("mtrl_fairgrad.verify reports problems")
    return [f"{path}: {failure}" for failure in failures]


def undisturbed(run: Run, path: Path) -> tuple[float, dict[str, object]]:
    """Run without disturbance; return the seconds it takes and its final state."""
    started = time.monotonic()
    if wait_for(start(run, path, path.with_suffix(".log")), 600) != 0:
        raise SystemExit(f"the undisturbed run failed: see {path.with_suffix('.log')}")
    return time.monotonic() - started, result(path)


def kill_repeatedly(
    run: Run, home: Path, kills: int, rng: random.Random, disk: LoopDisk | None = None
) -> tuple[Tally, float]:
    """Run, kill and compare until `kills` is reached; also return the seconds of a whole run.

    With a `disk` the runs are there, and its power is cut.
    """
    tally = Tally()
    seconds, expected = undisturbed(run, home / "whole")
    while tally.kills < kills:
        path = (home if disk is None else disk.place) / f"run{tally.runs}"
        started, before = time.monotonic(), tally.kills
        while True:
            child = start(run, path, home / f"{path.name}.log")
            code = wait_for(child, rng.uniform(0, 1.1 * seconds))
            if disk is None:
                code = kill(child) if code is None else code
            else:
                disk.cut_power()
                if code is None:
                    kill(child)  # whatever it made of the errors
                disk.restart()
            if code is not None:
                break
            tally.kills += 1
            tally.while_writing += any(path.rglob(".*.tmp"))
            newest = max((path / "checkpoints").glob("0*"), default=None)
            tally.before_a_checkpoint += newest is None
            tally.while_evaluating += newest is not None and bool(
                json.loads((newest / "state.json").read_text())["evaluation"]
            )
        if tally.kills == before:
            seconds = time.monotonic() - started  # the speed of the machine may have changed
        tally.runs += 1
        tally.failures += [f"{path}: exit code {code}"] if code else differences(path, expected)
    return tally, seconds


def prepare() -> None:
    """Make the runs of this process and of its children as short as possible."""
    torch.set_num_threads(1)
    # TensorBoard warns of every entry that a resumed run discards.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    train.finish = lambda folder: 0  # the report depends only on what is compared here
    CheckpointStore.small = 0


@entry_point
def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--suite", choices=sorted(SUITES), default="gymnasium")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    parser.add_argument(
        "--folder",
        type=Path,
        help="keep the runs in this folder (default: a temporary one)",
    )
    parser.add_argument("--power", action="store_true", help="cut the power of the disk, too")
    given = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory() as temporary:
        home = given.folder or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        disk = LoopDisk(home / "disk") if given.power else None
        try:
            tally, seconds = kill_repeatedly(
                Run.compose(given.suite), home, given.kills, random.Random(given.seed), disk
            )
        finally:
            if disk is not None:
                disk.unmount()
    print(
        f"{given.suite}: {tally.kills} {'power cuts' if given.power else 'kills'} "
        f"in {tally.runs} runs of {seconds:.1f} s, "
        f"{tally.while_writing} of them while writing, {tally.before_a_checkpoint} before "
        f"a first checkpoint, {tally.while_evaluating} during an evaluation; "
        f"{len(tally.failures)} differences"
    )
    for failure, times in Counter(tally.failures).items():
        print(f"{failure} ({times})")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
