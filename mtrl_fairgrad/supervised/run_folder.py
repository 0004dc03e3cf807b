"""The folder of a supervised run, which holds the folders of its fits.

    config.yaml      the configuration of the command that wrote table.csv last
    manifest.json    versions, commit and machine of its start, the configuration's SHA-256
    table.csv        a row for each method
    search.csv       a line for each α of a search

Folders of versions without the first two stay without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mtrl_fairgrad.runs.base_run_dir import CONFIG, MANIFEST, BaseRunFolder, write_description
from mtrl_fairgrad.supervised.fit_folder import FitFolder, is_described
from mtrl_fairgrad.utils.atomic_io import RunFolderError, make_folders, write_atomic
from mtrl_fairgrad.utils.safe_files import is_present

TABLE, SEARCH = "table.csv", "search.csv"


class SupervisedRunFolder(BaseRunFolder):
    """A folder of fits with the configuration that they belong to."""

    kind: ClassVar[str] = FitFolder.kind


def check_free(path: Path) -> None:
    """Check that fits may be written below a folder.

    Raises:
        RunFolderError: it is the folder of a run of training, of a fit, or of another program.
    """
    if is_present(path / CONFIG) and not is_described(path):
        raise RunFolderError(
            f"run_dir={path} holds the {CONFIG} of something else than a supervised run: choose "
            "another run_dir."
        )


def write_table(
    path: Path, text: str, config: Mapping[str, Any], manifest: Mapping[str, Any]
) -> None:
    """Write table.csv, after the configuration that its rows belong to unless that is there.

    Args:
        path: folder of the run.
        text: content of the table.
        config: the run's configuration, of plain values.
        manifest: that of a run that begins.
    """
    if not _has(path, config) and not _is_older(path):
        make_folders(path)
        write_description(path, FitFolder.kind, config, manifest)
    write_atomic(path / TABLE, text.encode())


def _has(path: Path, config: Mapping[str, Any]) -> bool:
    return is_described(path) and SupervisedRunFolder.open(path).config == config


def _is_older(path: Path) -> bool:
    """Whether a version without descriptions wrote a folder."""
    return is_present(path / TABLE) and not is_present(path / MANIFEST)
