"""Kill a tiny run at random moments, resume it until it is done, and compare it with one that was
never killed.

    python scripts/kill_and_resume.py [--kills 200] [--suite gymnasium|beside|mt1] [--seed 0]
    [--folder DIR]

A run is started again in its folder (`resume=auto`) and killed (SIGKILL) after a random part of the
time that a whole run takes, until it ends by itself. Then its last parameters, moments and random
streams, its replay, evaluations.csv and every logged scalar but the speed must be those of the
whole run, bit for bit and each exactly once, and `mtrl_fairgrad.verify` must trust it; then the
next run begins, until there were as many kills as asked for. The exit status is 1 if any of that
does not hold.

The runs are forked from this process, which has imported everything, so that most of their time is
a run's own. They checkpoint every few steps, and every checkpoint has a segment of its own.
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
import torch._dynamo  # the optimisers ask for it
from hydra import compose, initialize_config_dir

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mtrl_fairgrad.training.factory  # noqa: F401, for the children
from mtrl_fairgrad import train, verify
from mtrl_fairgrad.cli.hydra_main import config_dir
from mtrl_fairgrad.config.schema import Config, ConfigError, from_hydra
from mtrl_fairgrad.runs.checkpoint.index import Index
from mtrl_fairgrad.runs.checkpoint.store import CheckpointStore
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.atomic_io import content_of

TINY = [
    "env.workers=0", "eval.workers=0", "eval.episodes=1", "agent.width=8", "agent.batch_size=8",
    "agent.buffer_size=25", "agent.warmup_steps=10", "method.solver=newton", "log_every=5", "progress=false",
    "threads=1", "device=cpu", "resume=auto",
]  # fmt: skip
_GYMNASIUM = [
    "env=gymnasium", "env.tasks=[Pendulum-v1,Pendulum-v1]", "env.task_options=[{g: 10.0},{g: 5.0}]",
    "env.success_return=-30", "env.horizon=6", "eval.every=4",
]  # fmt: skip
SUITES = {
    # Checkpoints within episodes, which resuming replays.
    "gymnasium": [*_GYMNASIUM, "steps=60"],
    # And while a process plays the episodes of an evaluation.
    "beside": [*_GYMNASIUM, "steps=60", "eval.workers=1", "eval.background=true"],
    # Checkpoints at episode boundaries.
    "mt1": ["env=mt1", "env.task=reach-v3", "env.horizon=10", "steps=60", "eval.every=10"],
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What is to be run."""

    config: Config
    overrides: list[str]

    @classmethod
    def of(cls, suite: str, *more: str) -> Run:
        """The tiny run of a suite, changed by further words of the command line."""
        overrides = [*TINY, *SUITES[suite], *more]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return cls(from_hydra(compose("config", overrides=overrides), overrides), overrides)


@dataclass
class Tally:
    """What happened so far."""

    kills: int = 0
    runs: int = 0
    in_the_midst: int = 0
    """Kills that left something half-written."""
    before_a_checkpoint: int = 0
    """Kills of runs that had none yet."""
    evaluating: int = 0
    """Kills of runs whose newest checkpoint holds a policy that was being evaluated."""
    wrong: list[str] = field(default_factory=list)


def begin(run: Run, folder: Path, log: Path, prepare: Callable[[], object] = lambda: None) -> int:
    """A process, the first of a session, that prepares itself and goes on with the run; returns its
    number.
    """
    child = os.fork()
    if child:
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
        os._exit(code)


def ended(child: int, seconds: float) -> int | None:
    """The exit code of a process; None while it runs on after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        over, status = os.waitpid(child, os.WNOHANG)
        if over:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def kill(child: int) -> int | None:
    """The exit code of a process; None when it had to be killed."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def result(path: Path) -> dict[str, object]:
    """Everything a run ends with, by names, in a form that tells the last bit."""
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
    kept = rows[
        -(len(rows) // (ring.added - ring.segments[0].start)) * min(ring.added, ring.shape[0]) :
    ]
    return {
        **tensors,
        "env_steps": last.env_steps,
        "simulators": last.state,
        "replay": (ring.added, ring.shape, kept),
        "evaluations.csv": content_of(path / "evaluations.csv"),
        **scalars(path),
    }


def scalars(path: Path) -> dict[str, object]:
    """(step, value) of every tag as TensorBoard shows them, but of the speed, which depends on the
    machine.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("speed/")]
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in tags}


def differences(path: Path, expected: dict[str, object]) -> list[str]:
    """What is not as in the run that was never killed."""
    found = result(path)
    wrong = [
        name
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if any(finding.problems for finding in verify.verify(RunFolder.open(path))):
        wrong.append("verify does not trust it")
    return [f"{path}: {each}" for each in wrong]


def undisturbed(run: Run, path: Path) -> tuple[float, dict[str, object]]:
    """The seconds that a run takes which nobody disturbs, and what it ends with."""
    started = time.monotonic()
    if ended(begin(run, path, path.with_suffix(".log")), 600) != 0:
        raise SystemExit(f"the run does not even end undisturbed: see {path.with_suffix('.log')}")
    return time.monotonic() - started, result(path)


def torment(run: Run, home: Path, kills: int, luck: random.Random) -> tuple[Tally, float]:
    """Run, kill and compare until there were enough kills; also the seconds that a whole run takes."""
    tally = Tally()
    seconds, expected = undisturbed(run, home / "whole")
    while tally.kills < kills:
        path = home / f"run{tally.runs}"
        started, before = time.monotonic(), tally.kills
        while True:
            child = begin(run, path, path.with_suffix(".log"))
            code = ended(child, luck.uniform(0, 1.1 * seconds))
            code = kill(child) if code is None else code
            if code is not None:
                break
            tally.kills += 1
            tally.in_the_midst += any(path.rglob(".*.tmp"))
            newest = max((path / "checkpoints").glob("0*"), default=None)
            tally.before_a_checkpoint += newest is None
            tally.evaluating += newest is not None and bool(
                json.loads((newest / "state.json").read_text())["evaluation"]
            )
        if tally.kills == before:
            seconds = time.monotonic() - started  # the machine may have become faster, or slower
        tally.runs += 1
        tally.wrong += [f"{path}: exit code {code}"] if code else differences(path, expected)
    return tally, seconds


def prepare() -> None:
    """Have the runs of this process and of its children be as short as they can."""
    torch.set_num_threads(1)
    logging.getLogger("tensorboard").setLevel(
        logging.ERROR
    )  # it tells of every entry that a resumed run voids
    train.finish = lambda folder: None  # the report is made of what is compared here
    CheckpointStore.small = 0


def main() -> int:
    """Do what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--suite", choices=sorted(SUITES), default="gymnasium")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where the runs go, to be looked at (default: removed at the end)",
    )
    given = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory() as passing:
        home = given.folder or Path(passing)
        home.mkdir(parents=True, exist_ok=True)
        tally, seconds = torment(Run.of(given.suite), home, given.kills, random.Random(given.seed))
    print(
        f"{given.suite}: {tally.kills} kills in {tally.runs} runs of {seconds:.1f} s, "
        f"{tally.in_the_midst} of them in the midst of writing, {tally.before_a_checkpoint} before "
        f"a first checkpoint, {tally.evaluating} after one in the midst of an evaluation; "
        f"{len(tally.wrong)} differences"
    )
    for line, times in Counter(tally.wrong).items():
        print(f"{line} ({times})")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
