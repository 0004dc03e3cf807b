"""Sweeps: many runs from one command by Hydra's multirun, each in a folder of its own below the
sweep's.

    python -m mtrl_fairgrad.train -m method=ls,fairgrad seeds=[0],[1],[2] hydra/launcher=parallel

A run's folder is named after its words; the same command again leaves the finished ones and goes on
with the others. A mistake or fault in one run is no end to the others. Hydra gives nobody the
values its jobs return, and a job that is killed returns none; so each leaves what became of it in a
file, and the command that began them reads those.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtrl_fairgrad.config.schema import RESUMABLE, Config, ConfigError
from mtrl_fairgrad.runs.run_dir import RunFolderError
from mtrl_fairgrad.training.auto_resume import AUTO
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.atomic_io import write_atomic

Task = Callable[[DictConfig], int | None]
"""Does what a configuration says; returns an exit code, None for 0."""

ATTEMPTS = 3
"""How often joblib's pool of processes may break in one command, and begin again but for the last
time.
"""

LONGEST_NAME = 150
"""Characters of a folder's name; file systems allow 255 bytes."""

_UNTOLD = RESUMABLE - {"steps"} | {"run_dir"}
_ORDER = {each.name: place for place, each in enumerate(fields(Config))}


def run_name(words: Sequence[str]) -> str:
    """The folder's name of the run with these words: `method=ls,seeds=0,1,agent.width=16`.

    What makes no other run of it is left out, and so is what a shell would take for its own; groups
    and the like first.
    """
    telling = {
        word: word.partition("=")[0] for word in words if word.partition("=")[0] not in _UNTOLD
    }
    ordered = sorted(telling, key=lambda word: (_ORDER.get(telling[word], len(_ORDER)), word))
    name = re.sub(r"[^\w.,=+@%-]", "_", re.sub(r"[\[\]{}'\"\s]", "", ",".join(ordered))) or "run"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("run_name", run_name, replace=True)


def in_sweep() -> bool:
    """Whether this is a run of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def place(config: Config, overrides: list[str]) -> None:
    """Give a run of a sweep its folder, to begin or to go on in; nothing changes for others."""
    if not in_sweep():
        return
    if config.run_dir is None:
        config.run_dir = str(_folder(HydraConfig.get()) / HydraConfig.get().sweep.subdir)
    if config.resume is None:
        config.resume = AUTO
    if not _in_turn() and not any(word.startswith("progress=") for word in overrides):
        config.progress = False  # the bars of several runs would overwrite each other


def _in_turn() -> bool:
    """Whether the runs follow one another in the process that began the sweep."""
    return str(HydraConfig.get().launcher["_target_"]).endswith(".BasicLauncher")


def _folder(hydra: Any) -> Path:
    """The sweep's folder, from where the command was given, wherever this process is."""
    return Path(hydra.runtime.cwd, str(hydra.sweep.dir))


class Watch(Callback):
    """Tells the process that begins a sweep where it is; configured as a callback of Hydra's."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before anything is launched."""
        Watch.folder = _folder(config.hydra)


@dataclass(frozen=True)
class Outcome:
    """What became of a run of a sweep."""

    number: int
    name: str
    code: int
    """0, or the exit code the run would have ended with alone."""
    said: str = ""
    """The sentence of a mistake or fault, where it has one."""


class Sweep:
    """The outcomes of one command's runs, wherever they run; a copy of it goes to each."""

    def __init__(self) -> None:
        self._token = uuid.uuid4().hex
        self._trouble: list[tuple[int, str]] = []
        Watch.folder = None

    @property
    def begun(self) -> bool:
        """Whether this command is a sweep, known once Hydra has composed it."""
        return Watch.folder is not None

    def see_through(self, begin: Callable[[], object]) -> None:
        """Call Hydra; if it is for a sweep, what stops its launcher is kept for `close`, and broken
        pools begin again.

        Raises:
            HydraException, OmegaConfBaseException, ValueError: a mistake of the command line.
            BaseException: anything at all that is not a sweep's.
        """
        for left in reversed(range(ATTEMPTS)):
            try:
                begin()
                return
            except (HydraException, OmegaConfBaseException, ValueError):
                raise
            except BaseException as error:
                if not self.begun or isinstance(error, SystemExit):
                    raise
                # joblib ends all of its processes when one of them is killed, for want of memory,
                # say.
                if left and isinstance(error, BrokenProcessPool):
                    print(
                        "note: a process of the sweep was killed; all runs go on from where they "
                        "are",
                        flush=True,
                    )
                elif isinstance(error, KeyboardInterrupt):
                    return self._trouble.append((130, "the sweep was stopped"))
                else:
                    # submitit's gives up at the first job without a result; the others of its jobs
                    # go on.
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    return self._trouble.append(
                        (1, f"the launcher gave up, its jobs may not have ({reason})")
                    )

    def carry_out(self, task: Task, composed: DictConfig) -> int:
        """Do one run and note what became of it; returns its exit code. Exceptions end the run, not
        the sweep.

        Raises:
            KeyboardInterrupt: the run was asked to stop, and it ran in the process that began the
                sweep.
        """
        hydra = HydraConfig.get()
        name = str(hydra.sweep.subdir)
        with contextlib.nullcontext() if _in_turn() else _prefixed(f"[#{hydra.job.num}] "):
            code, said = _carried_out(task, composed)
        with contextlib.suppress(OSError):
            Path(
                hydra.runtime.output_dir
            ).rmdir()  # Hydra made it, and it is empty if no run was begun there
        notes = _folder(hydra) / ".sweeps" / self._token
        notes.mkdir(parents=True, exist_ok=True)
        outcome = Outcome(int(hydra.job.num), name, code, said)
        write_atomic(notes / f"{outcome.number}.json", json.dumps(asdict(outcome)).encode())
        if code > 128 and _in_turn():
            raise KeyboardInterrupt  # whoever stops this run does not want the next one to begin
        return code

    def close(self) -> int:
        """Say what became of all runs that have ended; returns the exit code: 0, that of the failed
        runs, or 1.
        """
        assert Watch.folder is not None
        notes = Watch.folder / ".sweeps" / self._token
        found = [Outcome(**json.loads(path.read_bytes())) for path in notes.glob("*.json")]
        shutil.rmtree(notes, ignore_errors=True)
        with contextlib.suppress(OSError):
            notes.parent.rmdir()
        bad = sorted(
            (outcome for outcome in found if outcome.code), key=lambda outcome: outcome.number
        )
        for outcome in bad:
            print(f"error: {outcome.name}: {outcome.said}", file=sys.stderr)
        for _, said in self._trouble:
            print(
                f"error: {said}; the same command goes on with what is not finished.",
                file=sys.stderr,
            )
        print(f"sweep: {len(found) - len(bad)} runs finished, {len(bad)} not, in {Watch.folder}")
        codes = {outcome.code for outcome in bad} or {code for code, _ in self._trouble}
        return (codes.pop() if len(codes) == 1 else 1) if codes else 0


def _carried_out(task: Task, composed: DictConfig) -> tuple[int, str]:
    """A run's exit code, and a sentence if that is not 0."""
    try:
        code = task(composed) or 0
    except (ConfigError, RunFolderError) as error:
        return fail(error), str(error)
    except Exception as error:
        traceback.print_exc()
        return 1, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if code > 128:
        return code, "it was stopped, and can go on."
    return code, f"it ended with exit code {code}, see what it printed." if code else ""


@contextlib.contextmanager
def _prefixed(prefix: str) -> Iterator[None]:
    """Begin all lines that are printed with whose they are."""
    with (
        contextlib.redirect_stdout(_Lines(sys.stdout, prefix)),
        contextlib.redirect_stderr(_Lines(sys.stderr, prefix)),
    ):
        yield


class _Lines(io.TextIOBase):
    """Passes on whole lines, so that those of several processes do not mix."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream, self._prefix, self._begun = stream, prefix, ""

    def write(self, text: str) -> int:
        """Keep what is no whole line yet."""
        *lines, self._begun = (self._begun + text).split("\n")
        self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        """Of the lines that are whole."""
        self._stream.flush()
