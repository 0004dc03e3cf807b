"""Sweeps: many runs from one command by Hydra's multirun, each in its own folder of the sweep.

    python -m mtrl_fairgrad.train -m method=ls,fairgrad seeds=[0],[1],[2] hydra/launcher=parallel

A run's folder is named after its overrides, see `mtrl_fairgrad.cli.run_names`. Repeating the
command skips finished runs and resumes the others; a failing run does not stop the sweep. Hydra
does not return the results of its jobs, and a killed job has none, so each job writes its result to
a file in the sweep's folder, from which the launching process reads it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mtrl_fairgrad.cli.run_names import old_run_name, run_name
from mtrl_fairgrad.cli.sweep_cores import cores_per_run, limit_workers
from mtrl_fairgrad.config.schema import Config, ConfigError, is_given
from mtrl_fairgrad.runs.run_dir import RunFolderError
from mtrl_fairgrad.training.auto_resume import AUTO
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.atomic_io import make_folders, remove, write_atomic
from mtrl_fairgrad.utils.safe_files import entries, is_present
from mtrl_fairgrad.utils.safe_load import read_mapping
from mtrl_fairgrad.utils.validation import one_line

Task = Callable[[DictConfig], int | None]
"""Runs one composed configuration; returns an exit code, None for 0."""

MAX_ATTEMPTS = 3
"""Total number of times that a sweep is started if joblib's process pool breaks."""


class OutputClosed(BaseException):
    """The reader of the output went away; a BaseException, for which Hydra prints nothing."""


def is_multirun() -> bool:
    """Whether this process runs a job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def assign_run_folder(config: Config, overrides: Sequence[str]) -> None:
    """In a multirun, set the run's folder and `resume=auto`; otherwise change nothing."""
    if not is_multirun():
        return
    assign_folder(config, overrides)
    if config.resume is None:
        config.resume = AUTO


class _WithFolder(Protocol):
    """A configuration of training or of a supervised run."""

    run_dir: str | None
    progress: bool


def assign_folder(config: _WithFolder, overrides: Sequence[str]) -> None:
    """In a multirun, set the run's folder and whether it shows progress."""
    if not is_multirun():
        return
    hydra = HydraConfig.get()
    if config.run_dir is None:
        old = _sweep_folder(hydra) / old_run_name(overrides)
        new = _sweep_folder(hydra) / hydra.sweep.subdir
        is_old = new.name == run_name(overrides) and is_present(old / "config.yaml")
        config.run_dir = str(old if is_old else new)
        entries(Path(config.run_dir), root=_sweep_folder(hydra))  # a link is refused
    if not _is_sequential() and not is_given("progress", overrides):
        config.progress = False  # progress bars of several processes would overwrite each other


def _is_sequential() -> bool:
    """Whether the jobs run sequentially in the launching process."""
    return str(HydraConfig.get().launcher["_target_"]).endswith(".BasicLauncher")


def _sweep_folder(hydra: Any) -> Path:
    """Return the sweep's folder, relative to where the command was started."""
    return Path(hydra.runtime.cwd, str(hydra.sweep.dir))


class SweepFolderCallback(Callback):
    """Hydra callback that stores the sweep's folder for the launching process.

    Hydra creates the instance, so the folder is stored in the class.
    """

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Store the folder; called by Hydra before it launches anything."""
        SweepFolderCallback.folder = _sweep_folder(config.hydra)
        with contextlib.suppress(OSError):  # Hydra writes it anew, and would follow a link
            (SweepFolderCallback.folder / "multirun.yaml").unlink()


@dataclass(frozen=True)
class JobResult:
    """Result of one run of a sweep."""

    number: int
    name: str
    code: int
    """Exit code, as if the run had been started alone."""
    message: str = ""
    """The error in one sentence; empty after success."""


class Sweep:
    """Results of a command's runs; pickled with each job."""

    def __init__(self, runs: int = 1) -> None:
        """Make an empty record.

        Args:
            runs: number of runs of the sweep, as far as the command line tells.
        """
        self._runs = runs
        self._token = uuid.uuid4().hex
        self._launcher_error: tuple[int, str] | None = None
        SweepFolderCallback.folder = None

    @property
    def started(self) -> bool:
        """Whether Hydra has composed a multirun."""
        return SweepFolderCallback.folder is not None

    def run(self, main: Callable[[], object]) -> None:
        """Call Hydra's main function; in a multirun, restart broken pools, record launcher errors.

        Raises:
            HydraException, OmegaConfBaseException, ValueError: a mistake in the command line.
            BaseException: anything raised outside a multirun.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                main()
                return
            except (HydraException, OmegaConfBaseException, ValueError):
                raise
            except BaseException as error:
                if not self.started or isinstance(
                    error, (SystemExit, BrokenPipeError, OutputClosed)
                ):
                    raise
                # joblib ends all its processes when one of them is killed, such as when memory
                # runs out.
                if isinstance(error, BrokenProcessPool) and attempt < MAX_ATTEMPTS:
                    print(
                        "note: a process of the sweep was killed; "
                        "all runs resume from their last checkpoints",
                        flush=True,
                    )
                    continue
                if isinstance(error, KeyboardInterrupt):
                    self._launcher_error = (130, "the sweep was stopped")
                else:
                    # submitit raises at the first job without a result; its other jobs continue.
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    self._launcher_error = (
                        1,
                        f"the launcher failed, its jobs may still be running ({reason})",
                    )
                return

    def run_one(self, task: Task, composed: DictConfig) -> int:
        """Run one job and write its result; returns its exit code.

        Raises:
            KeyboardInterrupt: the run was stopped by a signal, and the jobs run sequentially.
        """
        hydra = HydraConfig.get()
        prefix = f"[#{hydra.job.num}] "
        folder = self._results_folder(_sweep_folder(hydra))
        make_folders(folder, _sweep_folder(hydra))
        limit_workers(composed, cores_per_run(hydra.launcher, self._runs))
        with contextlib.nullcontext() if _is_sequential() else _prefixed_output(prefix):
            code, message = _run_task(task, composed)
        with contextlib.suppress(OSError):
            Path(hydra.runtime.output_dir).rmdir()  # made by Hydra, empty if no run was started
        result = JobResult(int(hydra.job.num), str(hydra.sweep.subdir), code, message)
        content = json.dumps(asdict(result)).encode()
        write_atomic(folder / f"{result.number}.json", content, _sweep_folder(hydra))
        if code > 128 and _is_sequential():
            raise KeyboardInterrupt  # stopping this run stops the sweep
        return code

    def close(self) -> int:
        """Print the results of all runs that have ended.

        Returns:
            exit code: 0, the code of the runs that failed, or 1 if their codes differ.
        """
        sweep = SweepFolderCallback.folder
        assert sweep is not None
        folder = self._results_folder(sweep)
        results: list[JobResult] = []
        with contextlib.suppress(OSError):  # the folder may not be one
            paths = entries(folder, "*.json", sweep)
            results = [JobResult(**read_mapping(path, sweep)) for path in paths]
        with contextlib.suppress(OSError):
            remove(folder, sweep)
            folder.parent.rmdir()
        failed = sorted(
            (result for result in results if result.code), key=lambda result: result.number
        )
        codes = {result.code for result in failed}
        for result in failed:
            print(one_line(f"error: {result.name}: {result.message}"), file=sys.stderr)
        if self._launcher_error is not None:
            code, message = self._launcher_error
            codes = codes or {code}
            print(
                f"error: {message}; repeat the command to resume what is not finished.",
                file=sys.stderr,
            )
        succeeded = len(results) - len(failed)
        total = max(self._runs, len(results))
        print(f"sweep: {succeeded} runs finished, {total - succeeded} not, in {sweep}")
        return (codes.pop() if len(codes) == 1 else 1) if codes else 0

    def _results_folder(self, sweep: Path) -> Path:
        return sweep / ".sweeps" / self._token


def _run_task(task: Task, composed: DictConfig) -> tuple[int, str]:
    """Return a run's exit code and error message; exceptions do not propagate."""
    try:
        code = task(composed) or 0
    except (ConfigError, RunFolderError) as error:
        return fail(error), str(error)
    except BrokenPipeError:
        raise OutputClosed from None  # no other run could report, either
    except Exception as error:
        traceback.print_exc()
        return 1, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if code > 128:
        return code, "it was stopped and can be resumed."
    return code, f"it ended with exit code {code}, see its output." if code else ""


@contextlib.contextmanager
def _prefixed_output(prefix: str) -> Iterator[None]:
    """Put `prefix` before every line that is printed."""
    with (
        contextlib.redirect_stdout(_PrefixedLines(sys.stdout, prefix)),
        contextlib.redirect_stderr(_PrefixedLines(sys.stderr, prefix)),
    ):
        yield


class _PrefixedLines(io.TextIOBase):
    """Writes only whole lines, so that lines of several processes do not mix."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream = stream
        self._prefix = prefix
        self._incomplete = ""

    def write(self, text: str) -> int:
        """Write the complete lines and buffer the rest."""
        *lines, self._incomplete = (self._incomplete + text).split("\n")
        self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        """Flush the complete lines."""
        self._stream.flush()
