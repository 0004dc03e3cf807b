"""Where the scalars of a run go besides metrics.csv: TensorBoard, CSV, Weights & Biases, MLflow.

`logger=` names them. Packages of other services are imported only if they are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol

from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.utils.extras import require
from mtrl_fairgrad.utils.validation import ConfigError


class LogBackend(Protocol):
    """Writes scalars of one training process."""

    def describe(self, config: Config, env_steps: int) -> None:
        """Write the configuration, once a process."""

    def add_scalar(self, name: str, value: float, env_steps: int) -> None:
        """Add a value; not every one is written at once."""

    def flush(self) -> None:
        """Write everything that was added."""

    def close(self) -> None:
        """Write the rest, without an error, and end."""


class Service(NamedTuple):
    """A backend that sends scalars to another program."""

    module: str
    """Top-level module that it imports, which is also the name of the extra."""
    path: str
    """Class of the backend, below this package."""
    offline: str
    """What to do without an account or a network."""


SERVICES = {
    "wandb": Service(
        "wandb", "weights_and_biases:WandbLog", "run `wandb login`, or set WANDB_MODE=offline"
    ),
    "mlflow": Service(
        "mlflow",
        "mlflow_tracking:MlflowLog",
        "set MLFLOW_TRACKING_URI to a server that answers, or to sqlite:///mlflow.db",
    ),
}


def check_loggers(names: Sequence[str]) -> None:
    """Check that the packages of the named backends are installed, without importing them.

    Raises:
        MissingExtraError: one is not.
    """
    for name in names:
        if name in SERVICES:
            require(SERVICES[name].module, name)


def make_backends(
    names: Sequence[str], folder: Path, purge_step: int, note: Callable[[str], None]
) -> list[LogBackend]:
    """Make the backends of a run.

    Args:
        names: of `Config.logger`, checked.
        folder: the run folder, which has been cut back to the checkpoint it continues from.
        purge_step: what an earlier process wrote from this step on is not valid any more.
        note: tells the user why a service is not used any longer.

    Raises:
        ConfigError: a service refuses to start.
    """
    from mtrl_fairgrad.training.log_backends.csv_file import CsvLog
    from mtrl_fairgrad.training.log_backends.tensorboard import TensorBoardLog

    made: list[LogBackend] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            made.append(TensorBoardLog(folder, purge_step))
        elif name == "csv":
            made.append(CsvLog(folder))
        else:
            made.append(_service(name, folder, note))
    return made


def _service(name: str, folder: Path, note: Callable[[str], None]) -> LogBackend:
    module, _, kind = SERVICES[name].path.partition(":")
    make = getattr(import_module(f"{__name__}.{module}"), kind)
    try:
        return FaultTolerantLog(name, make(folder), note)
    except Exception as error:  # services raise many types
        raise ConfigError(
            f"logger={name} cannot start ({_reason(error)}): {SERVICES[name].offline}, or leave it "
            "out.",
            "logger",
            name,
        ) from error


class FaultTolerantLog:
    """A service whose faults end its log, but not the training.

    Args:
        name: of the service.
        backend: its log.
        note: tells the user why the log ended.
    """

    def __init__(self, name: str, backend: LogBackend, note: Callable[[str], None]) -> None:
        self._name, self._note = name, note
        self._backend: LogBackend | None = backend

    def describe(self, config: Config, env_steps: int) -> None:
        """Write the configuration."""
        self._try(lambda backend: backend.describe(config, env_steps))

    def add_scalar(self, name: str, value: float, env_steps: int) -> None:
        """Add a value."""
        self._try(lambda backend: backend.add_scalar(name, value, env_steps))

    def flush(self) -> None:
        """Write everything that was added."""
        self._try(lambda backend: backend.flush())

    def close(self) -> None:
        """Write the rest and end."""
        self._try(lambda backend: backend.close())

    def _try(self, use: Callable[[LogBackend], None]) -> None:
        if self._backend is None:
            return
        try:
            use(self._backend)
        except Exception as error:  # services raise many types
            self._backend = None
            self._note(
                f"note: logger={self._name} has ended ({_reason(error)}); training goes on, and "
                "metrics.csv has what a report needs"
            )


def _reason(error: Exception) -> str:
    """Return the first line of an error, of limited length."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
