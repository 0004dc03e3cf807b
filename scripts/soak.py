"""Train tiny runs for some minutes while everything happens to them that may happen to a run.

    python scripts/soak.py [--minutes 10] [--seed 0]

A run is started again and again in its folder (`resume=auto`) and each time meets one of these:
SIGKILL, Ctrl-C once or twice, SIGTERM, SIGUSR1, a disk that is full (a small one of its own, where
mounting is allowed) or refuses one call, a folder that vanishes. In between its newest checkpoint
is damaged, or the folder moved. After each, the exit status and what was said must be right, no
process may be left, and `mtrl_fairgrad.verify` may say nothing but that the run is not finished.
Once it has ended by itself it must be, bit for bit, the run that nothing happened to. Beside them
one long run goes on, whose memory and open files may not grow. The exit status is 1 if any of that
does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_and_resume import Run, begin, differences, ended, kill, prepare, undisturbed

from mtrl_fairgrad import verify
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.utils import atomic_io

SUITES = ("gymnasium", "gymnasium", "beside", "mt1")
ROOM = 2**22  # bytes of the small disk
PATIENCE = 120.0  # seconds within which a process must have ended
GROWTH = (
    1.1,
    2**24,
)  # times, plus bytes: what the long run may take in the last quarter beyond the second
UNFINISHED = ("the run is not finished", "the newest is at", "there is none")


@dataclass
class Attempt:
    """One process of a run."""

    run: Run
    path: Path
    log: Path
    after: float
    """Seconds after which something is to happen."""
    luck: random.Random
    child: int = 0

    def begin(self, prepare: Callable[[], object] = lambda: None) -> None:
        self.child = begin(self.run, self.path, self.log, prepare)

    def end(self) -> int | None:
        """Wait for its end; returns the exit status, None if it had to be killed."""
        code = ended(self.child, PATIENCE)
        return kill(self.child) if code is None else code


# ---- what happens to a process: each returns its exit status, and those that would be right ----

Outcome = tuple[int | None, Collection[int | None]]
REFUSED = (0, 1, 2)


def nothing(attempt: Attempt) -> Outcome:
    attempt.begin()
    return attempt.end(), (0,)


def killed(attempt: Attempt) -> Outcome:
    attempt.begin()
    code = ended(attempt.child, attempt.after)
    return kill(attempt.child) if code is None else code, (None, 0)


def asked(*signals: signal.Signals) -> Callable[[Attempt], Outcome]:
    """Signals to all its processes, as from a terminal or a job manager; before it listens they
    simply end it.
    """

    def happening(attempt: Attempt) -> Outcome:
        attempt.begin()
        code = ended(attempt.child, attempt.after)
        for number in signals:
            if code is None:
                os.killpg(attempt.child, number)
                code = ended(attempt.child, attempt.luck.uniform(0, 0.1))
        right = (0, *(-number for number in signals), *(128 + number for number in signals))
        return attempt.end() if code is None else code, right

    return happening


class FailingOs:
    """Stands in for the module `os` in `atomic_io`: one call that changes the disk fails.

    Args:
        left: the number of calls until then.
    """

    CHANGING = ("write", "ftruncate", "fsync", "mkdir", "replace", "unlink", "rmdir")

    def __init__(self, left: int) -> None:
        self.left = left

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in self.CHANGING:
            return function

        def call(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO), "the disk")
            return function(*arguments)

        return call


def refused(attempt: Attempt) -> Outcome:
    """One call to the disk fails."""
    failing = FailingOs(attempt.luck.randrange(600))
    attempt.begin(lambda: setattr(atomic_io, "os", failing))
    return attempt.end(), REFUSED


def full(attempt: Attempt) -> Outcome:
    """The small disk has a little room left, or none."""
    disk = attempt.path.parent
    if not disk.is_mount():
        return refused(attempt)
    ballast = disk / "ballast"
    ballast.write_bytes(
        bytes(max(shutil.disk_usage(disk).free - attempt.luck.randrange(150_000), 0))
    )
    try:
        attempt.begin()
        return attempt.end(), REFUSED
    finally:
        ballast.unlink()


def vanished(attempt: Attempt) -> Outcome:
    """Somebody moves the folder away, and puts it back when the process has ended."""
    attempt.begin()
    code = ended(attempt.child, attempt.after)
    if code is not None or not (attempt.path / "config.yaml").is_file():
        return attempt.end() if code is None else code, REFUSED
    elsewhere = attempt.path.rename(attempt.path.with_name("elsewhere"))
    code = attempt.end()
    elsewhere.rename(attempt.path)  # refused if half of a run has been put there
    return code, REFUSED


HAPPENINGS: dict[str, Callable[[Attempt], Outcome]] = {
    "left alone": nothing,
    "SIGKILL": killed,
    "Ctrl-C": asked(signal.SIGINT),
    "Ctrl-C twice": asked(signal.SIGINT, signal.SIGINT),
    "SIGTERM": asked(signal.SIGTERM),
    "SIGUSR1": asked(signal.SIGUSR1),
    "SIGUSR1, SIGTERM": asked(signal.SIGUSR1, signal.SIGTERM),
    "disk full": full,
    "disk refuses a call": refused,
    "folder vanishes": vanished,
}


# ---- what must hold afterwards ----


@dataclass
class Soak:
    """A run at a time, and what happened so far."""

    home: Path
    disk: Path
    luck: random.Random
    happened: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    damaged: Path | None = None
    """A checkpoint that is there and not sound."""

    def check(self, holds: bool, what: object) -> None:
        """Note what does not hold."""
        if not holds:
            self.wrong.append(str(what))
            print(f"WRONG: {what}", file=sys.stderr, flush=True)

    def torment(self, run: Run, seconds: float, expected: dict[str, object]) -> None:
        """One run from its beginning to its end, and a comparison."""
        path = self.disk / f"run{self.happened['run']}"
        log, code, self.damaged = self.home / f"{path.name}.log", None, None
        while code != 0:
            name, happening = self.luck.choice(list(HAPPENINGS.items()))
            attempt = Attempt(run, path, log, self.luck.uniform(0, 1.1 * seconds), self.luck)
            code, right = happening(attempt)
            self.happened[name] += 1
            self.check(code in right, f"{path}, {name}: exit status {code}; see {log}")
            self.check_after(attempt, code)
            if code != 0:
                path = self.meanwhile(path)
        self.wrong += differences(path, expected)
        self.happened["run"] += 1
        atomic_io.remove(path)

    def check_after(self, attempt: Attempt, code: int | None) -> None:
        """The words, the processes and the folder that one leaves behind."""
        said = [line for line in attempt.log.read_text().splitlines() if line]
        self.check("Traceback (most recent call last):" not in said, f"{attempt.log}: a traceback")
        self.check(
            code not in (1, 2) or said[-1].startswith("error: "), f"{attempt.log}: no error is told"
        )
        deadline = time.monotonic() + 5
        while (left := _session(attempt.child)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.check(not left, f"{attempt.log}: processes {left} are left")
        if not (attempt.path / "config.yaml").is_file():
            return
        folder = RunFolder.open(attempt.path)
        if self.damaged is not None and not self.damaged.exists():
            self.damaged = None
        for finding in verify.verify(folder):
            for problem in finding.problems:
                known = problem.startswith(UNFINISHED) or (
                    finding.check == "report" and not folder.evaluations()
                )
                self.check(
                    known or self.damaged is not None, f"{attempt.path}, {finding.check}: {problem}"
                )

    def meanwhile(self, path: Path) -> Path:
        """What happens while no process is there; returns where the run is now."""
        checkpoints = RunFolder.open(path).checkpoints() if (path / "config.yaml").is_file() else []
        if len(checkpoints) > 1 and self.damaged is None and self.luck.random() < 0.2:
            self.damaged = checkpoints[0]
            file = self.luck.choice(sorted(self.damaged.iterdir()))
            data = bytearray(file.read_bytes())
            data[self.luck.randrange(len(data))] ^= self.luck.randrange(1, 256)
            file.write_bytes(data)
            self.happened["checkpoint damaged"] += 1
        elif checkpoints and self.damaged is None and self.luck.random() < 0.2:
            self.happened["folder moved"] += 1
            return path.rename(path.with_name(f"{path.name}-moved{self.happened['folder moved']}"))
        return path


def _session(number: int) -> list[int]:
    """The processes of a session, but for those that only wait to be collected."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == number and state != "Z":
                found.append(int(stat.parent.name))
    return found


@dataclass
class Long:
    """A run that is left alone for long."""

    child: int
    sizes: list[tuple[int, int]] = field(default_factory=list)  # bytes of memory, and open files

    def look(self) -> None:
        process = Path(f"/proc/{self.child}")
        pages = int((process / "statm").read_text().split()[1])
        self.sizes.append(
            (pages * os.sysconf("SC_PAGE_SIZE"), len(list((process / "fd").iterdir())))
        )

    def finish(self, soak: Soak) -> str:
        """Stop it and compare; returns the numbers in words."""
        os.kill(self.child, signal.SIGTERM)
        code = ended(self.child, PATIENCE)
        soak.check(
            (kill(self.child) if code is None else code) == 128 + signal.SIGTERM,
            f"the long run: {code}",
        )
        quarter = len(self.sizes) // 4
        parts = self.sizes[quarter : 2 * quarter + 1], self.sizes[3 * quarter :]
        (memory, files), (later, more) = (map(max, zip(*part, strict=True)) for part in parts)
        soak.check(
            later <= GROWTH[0] * memory + GROWTH[1],
            f"the long run's memory grew from {memory} to {later}",
        )
        soak.check(more <= files, f"the long run's open files grew from {files} to {more}")
        steps = RunFolder.open(soak.home / "long").load_checkpoint().env_steps
        return f"long run: {steps} steps, {memory / 2**20:.0f} then {later / 2**20:.0f} MiB, {files} then {more} files"


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """Mount one there, if that is allowed."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    mounted = (
        shutil.which("mount") is not None
        and not subprocess.run(mount, capture_output=True).returncode
    )
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def main() -> int:
    """Do what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of what happens when")
    given = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory() as passing, small_disk(Path(passing) / "disk"):
        soak = Soak(Path(passing), Path(passing) / "disk", random.Random(given.seed))
        whole = {
            suite: undisturbed(Run.of(suite), soak.home / suite) for suite in sorted(set(SUITES))
        }
        endless = Run.of("gymnasium", "steps=1000000000", "eval.every=60", "log_every=60")
        long = Long(begin(endless, soak.home / "long", soak.home / "long.log"))
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end or len(long.sizes) < 4:
            suite = soak.luck.choice(SUITES)
            soak.torment(Run.of(suite), *whole[suite])
            long.look()
        print(long.finish(soak))
    print(", ".join(f"{name}: {times}" for name, times in sorted(soak.happened.items())))
    print(f"{len(soak.wrong)} wrong")
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
