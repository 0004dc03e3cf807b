"""Train tiny runs under random faults for some minutes, and check that nothing is lost.

    python scripts/soak.py [--minutes 10] [--seed 0] [--faults NAME ...]

A run is started again and again in its folder (`resume=auto`), each time with one of these faults:
SIGKILL, Ctrl-C once or twice, SIGTERM, SIGUSR1, a full disk (a small file system, where mounting is
allowed), a failing call to the disk, a folder that disappears, a clock that is wrong, a worker that
is killed when it starts, a process that stalls at a call to the disk while another one is started.
Between the starts its newest checkpoint is damaged or its folder moved. After each start the exit
code and the error message must be right, no process may be left, and `mtrl_fairgrad.verify` may
only report that the run is not finished. A run that has ended by itself must equal the undisturbed
run bit for bit. Meanwhile a long run trains, whose memory and open files must not grow. The exit
code is 1 if any check fails.
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
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_and_resume import Run, differences, kill, prepare, start, undisturbed, wait_for
from kill_workers import workers

from mtrl_fairgrad.analysis.verification import verify
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.auto_resume import is_finished
from mtrl_fairgrad.utils import atomic_io
from mtrl_fairgrad.utils.entry_point import entry_point

SUITES = ("gymnasium", "gymnasium", "background", "mt1")
DISK_BYTES = 2**22
"""Size of the small disk."""
TIMEOUT = 120.0
"""Seconds within which a process must end."""
GROWTH = (1.1, 2**24)
"""Allowed memory of the long run in its last quarter: factor of the second quarter's, and bytes."""
MORE_FILES = 2
"""Allowed growth of its open files, some of which a short soak sees opened first in its middle."""
TRACEBACK, UNBORN = "Traceback (most recent call last):", "EOFError: Ran out of input"
UNFINISHED = (
    "the run is not finished",
    "the newest is at",
    "an unfinished run has no checkpoint",
)


@dataclass
class Attempt:
    """One process of a run, and when to disturb it."""

    run: Run
    path: Path
    log: Path
    after: float
    """Seconds until the disturbance."""
    rng: random.Random
    child: int = 0
    logged: int = 0
    """Characters of the log from earlier attempts."""

    def start(self, prepare: Callable[[], object] = lambda: None) -> None:
        self.child = start(self.run, self.path, self.log, prepare)

    def end(self) -> int | None:
        """Wait for the end; returns the exit code, or None if the process had to be killed."""
        code = wait_for(self.child, TIMEOUT)
        return kill(self.child) if code is None else code


# ---- faults: each returns the exit code of the process, and the allowed ones ----

Outcome = tuple[int | None, Collection[int | None]]
DISK_CODES = (0, 1, 2)


def undisturbed_run(attempt: Attempt) -> Outcome:
    attempt.start()
    return attempt.end(), (0,)


def sigkill(attempt: Attempt) -> Outcome:
    attempt.start()
    code = wait_for(attempt.child, attempt.after)
    return kill(attempt.child) if code is None else code, (None, 0)


def signalled(*signals: signal.Signals) -> Callable[[Attempt], Outcome]:
    """Return a fault that sends signals to all processes of the run.

    A terminal or a job manager does the same. Before the handlers are installed they end the run.
    """

    def fault(attempt: Attempt) -> Outcome:
        attempt.start()
        code = wait_for(attempt.child, attempt.after)
        for number in signals:
            if code is None:
                os.killpg(attempt.child, number)
                code = wait_for(attempt.child, attempt.rng.uniform(0, 0.1))
        allowed = (0, *(-number for number in signals), *(128 + number for number in signals))
        return attempt.end() if code is None else code, allowed

    return fault


class FaultyOs:
    """Replaces the module `os` in `atomic_io`; before one call that changes the disk, a fault.

    Args:
        left: number of that call, from 1.
        fault: what happens then.
    """

    CHANGING = ("write", "ftruncate", "fsync", "mkdir", "replace", "rename", "unlink", "rmdir")

    def __init__(self, left: int, fault: Callable[[], object]) -> None:
        self.left, self.fault = left, fault

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in self.CHANGING:
            return function

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.fault()
            return function(*arguments, **keywords)

        return call


def _fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO), "the disk")


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def disk_error(attempt: Attempt) -> Outcome:
    """Let one call to the disk fail."""
    faulty = FaultyOs(attempt.rng.randrange(600), _fail)
    attempt.start(lambda: setattr(atomic_io, "os", faulty))
    return attempt.end(), DISK_CODES


def stalled(attempt: Attempt) -> Outcome:
    """Stop the process at a call to the disk, and start another one in its folder meanwhile.

    Whichever of them has the folder, the other may not change it.
    """
    # Half of the time when the folder is made.
    number = attempt.rng.choice([attempt.rng.randrange(1, 40), attempt.rng.randrange(1, 600)])
    faulty = FaultyOs(number, _stop)
    attempt.start(lambda: setattr(atomic_io, "os", faulty))
    deadline, watch = time.monotonic() + TIMEOUT, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
    while not (state := os.waitid(os.P_PID, attempt.child, watch)) and time.monotonic() < deadline:
        time.sleep(0.002)
    if state is not None and state.si_code == os.CLD_STOPPED:
        other = Attempt(attempt.run, attempt.path, attempt.log, 0.0, attempt.rng)
        other.start()
        code = other.end()
        os.kill(attempt.child, signal.SIGCONT)
        if code not in DISK_CODES:
            kill(attempt.child)
            return code, DISK_CODES
    return attempt.end(), DISK_CODES


def wrong_clock(attempt: Attempt) -> Outcome:
    """Let the clock differ by up to two weeks, and end the process early."""
    now, shift = time.time, attempt.rng.uniform(-1e6, 1e6)
    attempt.start(lambda: setattr(time, "time", lambda: now() + shift))
    code = wait_for(attempt.child, attempt.after)
    return kill(attempt.child) if code is None else code, (None, 0)


def killed_worker(attempt: Attempt) -> Outcome:
    """Kill the run's worker, if it has one, some time after its start."""
    attempt.start()
    delay = attempt.rng.choice([0.0, attempt.rng.uniform(0, 0.5 * attempt.after)])
    code, found = None, list[int]()
    while code is None and not found:
        found = workers(attempt.child)
        code = wait_for(attempt.child, 0.002)
    if code is None:
        code = wait_for(attempt.child, delay)
    if code is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found[0], signal.SIGKILL)
        code = attempt.end()
    return code, (0,)


def full_disk(attempt: Attempt) -> Outcome:
    """Leave little or no space on the small disk."""
    disk = attempt.path.parent
    if not disk.is_mount():
        return disk_error(attempt)
    ballast = disk / "ballast"
    ballast.write_bytes(
        bytes(max(shutil.disk_usage(disk).free - attempt.rng.randrange(150_000), 0))
    )
    try:
        attempt.start()
        return attempt.end(), DISK_CODES
    finally:
        ballast.unlink()


def missing_folder(attempt: Attempt) -> Outcome:
    """Move the folder away, and back when the process has ended."""
    attempt.start()
    code = wait_for(attempt.child, attempt.after)
    if code is not None or not (attempt.path / "config.yaml").is_file():
        return attempt.end() if code is None else code, DISK_CODES
    elsewhere = attempt.path.rename(attempt.path.with_name("elsewhere"))
    code = attempt.end()
    elsewhere.rename(attempt.path)  # fails if the process has created it again
    return code, DISK_CODES


FAULTS: dict[str, Callable[[Attempt], Outcome]] = {
    "undisturbed": undisturbed_run,
    "SIGKILL": sigkill,
    "Ctrl-C": signalled(signal.SIGINT),
    "Ctrl-C twice": signalled(signal.SIGINT, signal.SIGINT),
    "SIGTERM": signalled(signal.SIGTERM),
    "SIGUSR1": signalled(signal.SIGUSR1),
    "SIGUSR1, SIGTERM": signalled(signal.SIGUSR1, signal.SIGTERM),
    "disk full": full_disk,
    "disk error": disk_error,
    "folder missing": missing_folder,
    "stalled": stalled,
    "wrong clock": wrong_clock,
    "worker killed": killed_worker,
}


# ---- checks ----


@dataclass
class Soak:
    """The runs of one session, their faults and failures."""

    home: Path
    disk: Path
    rng: random.Random
    faults: Sequence[str] = tuple(FAULTS)
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    damaged: Path | None = None
    """A damaged checkpoint that still exists."""

    def check(self, holds: bool, description: object) -> None:
        """Record and print a failed check."""
        if not holds:
            self.failures.append(str(description))
            print(f"FAILED: {description}", file=sys.stderr, flush=True)

    def run_with_faults(self, run: Run, seconds: float, expected: dict[str, object]) -> None:
        """Train one run to its end under faults, and compare it with the undisturbed one."""
        path = self.disk / f"run{self.counts['run']}"
        log, code, self.damaged = self.home / f"{path.name}.log", None, None
        while code != 0:
            name = self.rng.choice(self.faults)
            attempt = Attempt(run, path, log, self.rng.uniform(0, 1.1 * seconds), self.rng)
            attempt.logged = len(log.read_text()) if log.is_file() else 0
            code, allowed = FAULTS[name](attempt)
            self.counts[name] += 1
            self.check(code in allowed, f"{path}, {name}: exit code {code}; see {log}")
            self.check_after(attempt, code, name)
            if code != 0:
                path = self.damage_or_move(path)
        for difference in differences(path, expected):
            self.check(False, difference)
        self.counts["run"] += 1
        atomic_io.remove(path)

    def check_after(self, attempt: Attempt, code: int | None, fault: str) -> None:
        """Check messages, processes and run folder after a process has ended."""
        deadline = time.monotonic() + 5
        while (left := _session(attempt.child)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.check(not left, f"{attempt.log}: processes {left} are still running")
        lines = [line for line in attempt.log.read_text()[attempt.logged :].splitlines() if line]
        # Python's own start of a worker whose learner was killed before it could say what to run.
        known = code is None and UNBORN in lines
        self.check(
            known or TRACEBACK not in lines,
            f"{attempt.log}, {fault}: a traceback:\n" + "\n".join(lines),
        )
        self.check(
            code not in (1, 2) or any(line.startswith("error: ") for line in lines[-2:]),
            f"{attempt.log}: no error message",
        )
        if not (attempt.path / "config.yaml").is_file():
            return
        folder = RunFolder.open(attempt.path)
        if self.damaged is not None and not self.damaged.exists():
            self.damaged = None
        for finding in verify(folder):
            for problem in finding.problems:
                known = problem.startswith(UNFINISHED) or (
                    finding.check == "report" and not folder.evaluations()
                )
                self.check(
                    known or self.damaged is not None, f"{attempt.path}, {finding.check}: {problem}"
                )

    def damage_or_move(self, path: Path) -> Path:
        """Maybe damage the newest checkpoint or move the folder; returns the folder's path."""
        if not (path / "config.yaml").is_file():
            return path
        folder = RunFolder.open(path)
        checkpoints = folder.checkpoints()
        # A run may be killed between its end and its exit; then resuming it reads no checkpoint.
        resumes = not is_finished(folder, folder.steps)
        if resumes and len(checkpoints) > 1 and self.damaged is None and self.rng.random() < 0.2:
            self.damaged = checkpoints[0]
            file = self.rng.choice(sorted(self.damaged.iterdir()))
            data = bytearray(file.read_bytes())
            data[self.rng.randrange(len(data))] ^= self.rng.randrange(1, 256)
            file.write_bytes(data)
            self.counts["checkpoint damaged"] += 1
        elif checkpoints and self.damaged is None and self.rng.random() < 0.2:
            self.counts["folder moved"] += 1
            return path.rename(path.with_name(f"{path.name}-moved{self.counts['folder moved']}"))
        return path


def _session(number: int) -> list[int]:
    """Return the processes of a session that are not zombies."""
    pids: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == number and state != "Z":
                pids.append(int(stat.parent.name))
    return pids


@dataclass
class LongRun:
    """An undisturbed run whose memory and open files are watched."""

    child: int
    sizes: list[tuple[int, int]] = field(default_factory=list)  # bytes of memory, and open files

    def measure(self) -> None:
        """Read memory and open files; a file that is just being read or written is no leak."""
        process = Path(f"/proc/{self.child}")
        pages = int((process / "statm").read_text().split()[1])
        files: list[int] = []
        for _ in range(10):
            files.append(len(list((process / "fd").iterdir())))
            time.sleep(0.01)
        self.sizes.append((pages * os.sysconf("SC_PAGE_SIZE"), min(files)))

    def finish(self, soak: Soak) -> str:
        """Stop the run and check its growth; returns a summary."""
        os.kill(self.child, signal.SIGTERM)
        code = wait_for(self.child, TIMEOUT)
        soak.check(
            (kill(self.child) if code is None else code) == 128 + signal.SIGTERM,
            f"the long run: {code}",
        )
        quarter = len(self.sizes) // 4
        parts = self.sizes[quarter : 2 * quarter + 1], self.sizes[3 * quarter :]
        (memory, files), (later, _) = (map(max, zip(*part, strict=True)) for part in parts)
        more = min(part for _, part in parts[1])
        soak.check(
            later <= GROWTH[0] * memory + GROWTH[1],
            f"the long run's memory grew from {memory} to {later}",
        )
        grown = more > files + MORE_FILES
        soak.check(not grown, f"the long run's open files grew from {files} to {more}")
        steps = RunFolder.open(soak.home / "long").load_checkpoint().env_steps
        return (
            f"long run: {steps} steps, {memory / 2**20:.0f} then {later / 2**20:.0f} MiB, "
            f"{files} then {more} files"
        )


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """Mount a small file system at `place`, if that is allowed."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    mounted = (
        shutil.which("mount") is not None
        and not subprocess.run(mount, capture_output=True).returncode
    )
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


@entry_point
def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    parser.add_argument(
        "--faults", nargs="+", choices=FAULTS, default=list(FAULTS), help="only these faults"
    )
    given = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory() as temporary, small_disk(Path(temporary) / "disk"):
        rng = random.Random(given.seed)
        soak = Soak(Path(temporary), Path(temporary) / "disk", rng, given.faults)
        whole = {
            suite: undisturbed(Run.compose(suite), soak.home / suite)
            for suite in sorted(set(SUITES))
        }
        endless = Run.compose("gymnasium", "steps=1000000000", "eval.every=60", "log_every=60")
        long = LongRun(start(endless, soak.home / "long", soak.home / "long.log"))
        end = time.monotonic() + 60 * given.minutes
        while time.monotonic() < end or len(long.sizes) < 4:
            suite = soak.rng.choice(SUITES)
            soak.run_with_faults(Run.compose(suite), *whole[suite])
            long.measure()
        print(long.finish(soak))
    print(", ".join(f"{name}: {count}" for name, count in sorted(soak.counts.items())))
    print(f"{len(soak.failures)} failures")
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
