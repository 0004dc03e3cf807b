"""Run folders as a stranger, an accident or an attack may leave them, and commands given to them.

A folder lies beside files that are none of its own. A command runs in a forked process, so that
time and memory have limits, and afterwards nothing outside may have changed or been copied.
"""

import base64
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from mtrl_fairgrad.analysis.report import report_files

SECONDS, MEGABYTES = 2.0, 500
"""Processor time and memory that a command may take more than with a sound folder."""
IDLE, LONGEST = 5.0, 30.0
"""Seconds asleep, and of processor time, after which a command counts as hanging."""
GIANT = 2**40
SECRET = "the secret of another file"
PNG_SIGNATURE = b"\x89PNG"

COMMANDS = {
    "report": ("report", ["run", "--html", "page.html", "--markdown", "page.md"]),
    "verify": ("verify", ["run"]),
    "evaluate": ("evaluate", ["run", "--workers", "0", "--goals", "1"]),
    "policy": (
        "evaluate",
        ["run/policies/policy-40-seed0.json", "--workers", "0", "--goals", "1"],
    ),
    "resume": ("train", ["resume=run", "steps=60"]),
}
"""Modules of commands and their arguments, in the folder that holds `run`."""
WRITTEN = {"run", "page.html", "page.md"}


def make_sample(folder):
    """Train and evaluate a run that has every kind of file."""
    from mtrl_fairgrad import evaluate, train
    from tests.support.tiny_runs import POINT_MASS

    options = ["steps=40", "eval.every=20", "env.workers=0", "method=ls", f"run_dir={folder}"]
    assert train.main([*POINT_MASS, *options]) == 0
    words = [str(folder), "--workers", "0", "--goals", "1", "--export"]
    assert evaluate.main([*words, str(folder / "policies")]) == 0
    (folder / "films").mkdir()
    (folder / "films" / "Near-seed0-goal0.mp4").write_bytes(b"a video")


def parts_of(folder):
    """Return the relative paths of all files and folders of a run, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def temporary_names(parts):
    """Return the names under which `parts` might be written before they are renamed."""
    return [str(Path(part).with_name(f".{Path(part).name}.tmp")) for part in parts]


# ---- files that are not what they should be ----


def _link(target):
    def plant(path, outside):
        path.symlink_to(outside / target if isinstance(target, str) else target)

    return plant


def _link_to_copy(path, outside):
    """Link to a file or folder with the right content that belongs to somebody else."""
    path.symlink_to(outside / "copies" / path.relative_to(outside.parent / "inside" / "run"))


def _socket(path, outside):
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _giant(path, outside):
    with path.open("wb") as file:
        file.truncate(GIANT)


def _folder(path, outside):
    path.mkdir()
    (path / "inner").write_text("another file")


PLANTED = {
    "a link to a file": _link("file"),
    "a link to a copy": _link_to_copy,
    "a link to a folder": _link("folder"),
    "a link to nothing": _link("missing"),
    "a link to itself": lambda path, outside: path.symlink_to(path.name),
    "a link within the run": lambda path, outside: path.symlink_to("config.yaml"),
    "a link to the parent": lambda path, outside: path.symlink_to(".."),
    "an endless file": _link(Path("/dev/zero")),
    "a FIFO": lambda path, outside: os.mkfifo(path),
    "a socket": _socket,
    "a giant": _giant,
    "a folder": _folder,
    "an empty file": lambda path, outside: path.touch(),
}
"""What may be planted instead of a file, by kind: functions of its path and the outside folder."""


def plant(folder, part, kind, outside):
    """Replace a part of the run by something else."""
    path = folder / part
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    PLANTED[kind](path, outside)


def remove(path):
    """Remove a file, link or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def is_editable(path):
    """Whether a file can be read and written here: a regular one, of one name, of common size."""
    try:
        found = path.lstat()
    except (OSError, ValueError):  # a name that an earlier change made up
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size < 2**24


def sign(checkpoint):
    """Make the index of a checkpoint right for its files, as a forger would."""
    path = checkpoint / "index.json"
    index = json.loads(path.read_bytes())["index"]
    for name in index["files"]:
        if is_editable(checkpoint / name):
            data = (checkpoint / name).read_bytes()
            index["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_index(path, index)


def write_index(path, index):
    """Write an index.json with its checksum."""

    def text(content):
        return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"

    path.write_bytes(text({"index": index, "sha256": hashlib.sha256(text(index)).hexdigest()}))


# ---- commands ----


@dataclass
class Answer:
    """What a command did."""

    code: int | None
    """None if it hung."""
    out: str
    err: str
    seconds: float
    """Processor time."""
    megabytes: float
    """Memory beyond that of this process."""


def prepare(place, sample):
    """Copy a run to `place/inside/run`, beside files of somebody else."""
    for name in ("inside", "outside"):
        remove(place / name)
    outside = place / "outside"
    (outside / "folder").mkdir(parents=True)
    shutil.copytree(sample, outside / "copies")
    (outside / "file").write_text(f"{SECRET}\n")
    for name in ("inner", "a.rows", ".a.tmp", "000000000020"):
        (outside / "folder" / name).write_text(f"{SECRET}\n")
    shutil.copytree(sample, place / "inside" / "run")
    return place


def snapshot(folder):
    """Return what tells whether a folder was changed, by path; contents of regular files."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[path] = (status.st_mode, status.st_mtime_ns, content)
    return found


def ask(command, place):
    """Give a command, by its name, to the folder `run` in `place`, in a process of its own."""
    module, arguments = COMMANDS[command]
    main = importlib.import_module(f"mtrl_fairgrad.{module}").main
    log = [place / "out", place / "err"]
    memory = _resident(os.getpid())
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            for number, path in enumerate(log, start=1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
            os.chdir(place / "inside")
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            limit = _virtual() + 4 * MEGABYTES * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            report_files.as_png = lambda groups: PNG_SIGNATURE  # takes a second
            try:
                code = main(list(arguments)) or 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 70
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            sys.stderr.flush()
        finally:
            os._exit(code)
    code, used = _wait(child)
    out, err = (path.read_text(errors="replace") for path in log)
    return Answer(
        code,
        out,
        err,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss / 1024 - memory,
    )


def _wait(child):
    """Wait for a process, or kill it if it hangs; returns exit code or None, and usage."""
    seconds, since = -1.0, time.monotonic()
    while True:
        over, status, used = os.wait4(child, os.WNOHANG)
        if over:
            return os.waitstatus_to_exitcode(status), used
        state, *values = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        now = (int(values[10]) + int(values[11])) / os.sysconf("SC_CLK_TCK")
        if now != seconds or state == "R":  # on a busy machine it may only wait for its turn
            seconds, since = now, time.monotonic()
        if seconds > LONGEST or time.monotonic() - since > IDLE:
            os.killpg(child, signal.SIGKILL)
            return None, os.wait4(child, 0)[2]
        time.sleep(0.005)


def _resident(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _virtual():
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def faults_of(command, answer, usual):
    """Return what is wrong with an answer, in words.

    Args:
        command: name of the command.
        answer: what it answered.
        usual: its answer to the sound folder.
    """
    found = []
    if answer.code is None:
        return ["it hangs"]
    if answer.code not in (0, 1, 2):
        found.append(f"exit code {answer.code}")
    if "Traceback" in answer.err + answer.out:
        found.append("a traceback")
    errors = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    expected = answer.code == 2 or (answer.code == 1 and command != "verify")
    if answer.code in (0, 1, 2) and len(errors) != expected:
        found.append(f"{len(errors)} error messages with exit code {answer.code}")
    if answer.code == 2 and answer.err.count("\n") != 1 and "going back" not in answer.err:
        found.append(f"{answer.err.count(chr(10))} lines instead of one sentence")
    if answer.seconds > usual.seconds + SECONDS:
        found.append(f"{answer.seconds:.1f} s instead of {usual.seconds:.1f} s")
    if answer.megabytes > usual.megabytes + MEGABYTES:
        found.append(f"{answer.megabytes:.0f} MB instead of {usual.megabytes:.0f} MB")
    if odd := unprintable(answer.out + answer.err):
        found.append(f"prints {odd!r}")
    return found


def unprintable(text):
    """Return the characters of a text that could control a terminal."""
    return "".join(sorted({each for each in text if not each.isprintable() and each != "\n"}))


def traces_outside(place, before):
    """Return what a command changed or copied that is outside the run, in words."""
    found = []
    after = snapshot(place / "outside")
    for path in before.keys() | after.keys():
        if before.get(path) != after.get(path):
            found.append(f"{path.relative_to(place)} was changed")
    made = {path.name for path in (place / "inside").iterdir()} - WRITTEN
    found += [f"{name} was made" for name in sorted(made)]
    secret = SECRET.encode()
    # Base64 has no bytes in common where it begins elsewhere: its inner part, for each beginning.
    hidden = [base64.b64encode(b"x" * n + secret)[4:-4] for n in range(3)]
    files = [place / "out", place / "err", *(place / "inside").rglob("*")]
    for path in files:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 2**26:
            continue
        data = path.read_bytes()
        if any(each in data for each in (secret, *hidden)):
            found.append(f"{path.relative_to(place)} holds the content of another file")
    return found
