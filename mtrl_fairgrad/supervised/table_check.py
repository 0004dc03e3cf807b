"""Recomputation of the tables of a supervised run from the results of its fits.

It asks for the same fits as the command, in the same order, but reads them and writes nothing.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mtrl_fairgrad.config.schema import changed_keys
from mtrl_fairgrad.supervised.compare import FitRunner, comparison
from mtrl_fairgrad.supervised.config import from_plain, make_benchmark
from mtrl_fairgrad.supervised.fit_folder import MAX_BYTES, FitFolder, FitResult, is_fit_folder
from mtrl_fairgrad.supervised.fit_spec import FitSpec
from mtrl_fairgrad.supervised.run_folder import SEARCH, TABLE, SupervisedRunFolder
from mtrl_fairgrad.supervised.search import searching
from mtrl_fairgrad.utils.atomic_io import RunFolderError
from mtrl_fairgrad.utils.faults import TrainingFault
from mtrl_fairgrad.utils.safe_files import is_present, read_bytes
from mtrl_fairgrad.utils.validation import ConfigError

_TOLERANCE = 1e-9
"""Relative difference of numbers that another machine's rounding explains."""


@dataclass(frozen=True)
class FitReader(FitRunner):
    """Reads the fits of a run instead of running them."""

    def fit(self, spec: FitSpec, path: Path) -> FitResult:
        """Read the result of a fit.

        Raises:
            RunFolderError: the fit is missing, unfinished, damaged, or of another specification.
            TrainingFault: the fit failed.
        """
        if not is_fit_folder(path):
            raise RunFolderError(f"the run is not finished: {path} holds no fit")
        folder = FitFolder.open(path)
        for key, there, expected in changed_keys(folder.config, spec.plain()):
            raise RunFolderError(f"{path} has {key}={there}, but the run's fits {key}={expected}")
        fault, result = folder.fault(), folder.result()
        if fault is not None:
            raise TrainingFault(fault)
        if result is None:
            raise RunFolderError(f"the run is not finished: {path} has no result")
        return result

    def tell(self, failure: str) -> None:
        """Say nothing: the fault is in the table."""


def check_tables(run: SupervisedRunFolder) -> tuple[list[str], list[str]]:
    """Compare table.csv and search.csv of a run with those that follow from its fits.

    Returns:
        what is wrong, and what a reader should know.

    Raises:
        RunFolderError: the run is not finished, or a fit is damaged.
        ConfigError: the configuration is not one of this version.
    """
    config = from_plain(run.config)
    reader = FitReader(config, make_benchmark(config), run.path, torch.device("cpu"))
    try:
        _ = reader.given
    except ConfigError as error:
        return [], [f"the tables are not recomputed, because {error}"]
    problems = [
        problem for name, text in _tables(reader) for problem in _differences(run.path / name, text)
    ]
    return problems, []


def _tables(reader: FitReader) -> Iterator[tuple[str, str]]:
    """Yield name and text of each table as it is when the run is finished."""
    if reader.config.compare != "search":
        *_, table = comparison(reader)
        yield TABLE, table.csv()
        return
    *_, findings = searching(reader)
    yield TABLE, findings.table().csv()
    yield SEARCH, findings.csv()


def _differences(file: Path, expected: str) -> Iterator[str]:
    """Yield a sentence for each line of a table that is not as expected."""
    if not is_present(file):
        yield f"there is no {file.name}"
        return
    found = _rows(read_bytes(file, MAX_BYTES).decode())
    wanted = _rows(expected)
    if len(found) != len(wanted):
        yield f"{file.name} has {len(found)} lines, but {len(wanted)} follow from the fits"
    for number, (there, right) in enumerate(zip(found, wanted, strict=False), start=1):
        if len(there) != len(right) or not all(map(_equal, there, right)):
            yield f"line {number} of {file.name} ({right[0]}) does not follow from the fits"


def _rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def _equal(one: str, other: str) -> bool:
    """Whether two cells agree, numbers up to the rounding of another machine."""
    if one == other:
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=_TOLERANCE)
    except ValueError:
        return False
