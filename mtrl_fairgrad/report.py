"""Report on runs: `python -m mtrl_fairgrad.report RUN... [--out DIR] [--html FILE] …`.

For supervised runs it compares the results with the paper's tables, see
`mtrl_fairgrad.supervised.paper_comparison`.

RUN is a run folder, or a folder with runs below it, such as a sweep's; runs found there that cannot
be shown are named and left out.

For training runs it prints tables and writes report.csv and report.png; --html adds one
self-contained page, --latex and --markdown the tables for a paper or an issue, --figures the
figures as PDF. Runs whose configurations differ only in seeds and in where they ran are pooled;
runs of different protocols have blocks of their own and are never averaged or compared. With
--until 100000 only evaluations until 100,000 env_steps are included, and runs that differ only in
length are pooled, too.

report.csv has a row per method and task, and one with task "mean" for the mean over tasks: success
rates of the evaluation before training (`untrained`), of the last one (`final`), and of the one
with the highest mean over tasks and seeds (`best`, the paper's number); `*_stderr` is over seeds
and empty for one seed. Only the row "mean" has the 95 % interval of the final mean (`final_low`,
`final_high`), the interquartile mean of the last evaluation with its interval (`final_iqm*`), the
total time of all runs (`wall_seconds`), the median `updates_per_second`, the number in the paper's
Table 4 (`paper_best*`), which was measured under another protocol, and the area below the learning
curve over its length (`course*`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from mtrl_fairgrad.analysis.report.report_files import write_report
from mtrl_fairgrad.analysis.run_groups import ReportError
from mtrl_fairgrad.analysis.run_search import folders_below, reportable
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.supervised.fit_folder import fit_folders, is_described, is_fit_folder
from mtrl_fairgrad.utils.arguments import (
    Parser,
    fail,
    file_argument,
    folder_argument,
    integer_argument,
    path_argument,
)
from mtrl_fairgrad.utils.entry_point import entry_point
from mtrl_fairgrad.utils.safe_files import is_present
from mtrl_fairgrad.utils.validation import check_integer, one_line


def report(
    paths: Iterable[str | Path],
    out: Path | None = None,
    html: Path | None = None,
    latex: Path | None = None,
    markdown: Path | None = None,
    figures: Path | None = None,
    until: int | None = None,
) -> Path:
    """Report on training runs or on supervised runs; returns the folder of report.csv.

    Args:
        paths: one or more folders of runs, or of folders with runs, all of one kind. Supervised
            runs have tables only.
        out: where to write; by default the given folder if there is only one, else ./report.
        html: see `write_report`.
        latex: see `write_report`.
        markdown: see `write_report`.
        figures: see `write_report`.
        until: see `write_report`.

    Raises:
        ValueError: the runs cannot be reported, or a file cannot be written.
    """
    if until is not None:
        check_integer("until", until)
    given = [Path(path) for path in paths]
    target = out if out is not None else given[0] if len(given) == 1 else Path("report")
    folders = [run for path in given for run in _runs_of(path, until)]
    if not _are_supervised(folders):
        write_report(folders, target, html, latex, markdown, figures, until)
        return target
    if any(option is not None for option in (html, latex, markdown, figures, until)):
        raise ReportError(
            "--html, --latex, --markdown, --figures and --until are for training runs: "
            "leave them out."
        )
    from mtrl_fairgrad.supervised.paper_comparison import compare_with_paper  # loads benchmarks

    compare_with_paper(folders, target)
    return target


def _runs_of(path: Path, until: int | None) -> list[Path]:
    """Return a folder that holds a run, or those below it, with notes on what is left out."""
    if _holds_run(path):
        return [path]
    found = list(folders_below(path, _holds_run))
    supervised = [run for run in found if _is_supervised(run)]
    training, notes = reportable([run for run in found if run not in supervised], until)
    chosen = [*training, *supervised]
    if notes and not chosen:
        raise ReportError(f"no run below {path} can be reported: {notes[0]}")
    for note in notes:
        print(f"note: {one_line(note)}", file=sys.stderr)
    return chosen or [path]  # without any run, opening the folder itself says what is missing


def _holds_run(path: Path) -> bool:
    return is_present(path / "config.yaml") or _is_supervised(path)


def _is_supervised(path: Path) -> bool:
    """Whether a folder holds a supervised run; a damaged or foreign one does not."""
    try:
        if is_present(path / "config.yaml"):
            return is_fit_folder(path) or is_described(path)
        return is_present(path / "toy.csv") or bool(fit_folders(path))
    except ValueError:
        return False


def _are_supervised(paths: Sequence[Path]) -> bool:
    """Whether the folders hold supervised runs; ValueError if kinds differ or one has no run."""
    kinds: dict[bool, Path] = {}
    for path in paths:
        supervised = _is_supervised(path)
        if not supervised:
            RunFolder.open(path)
        kinds[supervised] = path
    if len(kinds) > 1:
        raise ReportError(
            f"{kinds[True]} is a supervised run but {kinds[False]} a training run: "
            "report on one kind at a time."
        )
    return True in kinds


def _env_steps(text: str) -> int:
    """Parse an argument in env_steps."""
    number = integer_argument(text)
    if number < 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of env_steps: give an integer of at least 0, such as 100000"
        )
    return number


@entry_point
def main(arguments: Sequence[str] | None = None) -> int:
    """Report on the runs of the command line.

    Returns:
        exit code: 0, 1 after a fault of the disk, 2 after a user error.
    """
    parser = Parser(
        "python -m mtrl_fairgrad.report",
        description="Tables and figures of training runs; supervised runs against the paper.",
    )
    parser.add_argument(
        "runs",
        type=path_argument,
        nargs="+",
        metavar="RUN",
        help="run folder, as the command printed it, or a folder with runs below it",
    )
    files = (
        ("--out", "DIR", "where to write (default: the run if only one, else report/)"),
        ("--html", "FILE", "also write one page with all tables, figures and videos"),
        ("--latex", "FILE", "also write the tables in LaTeX (booktabs)"),
        ("--markdown", "FILE", "also write the tables in Markdown"),
        ("--figures", "DIR", "also write the figures as PDF"),
    )
    for name, metavar, text in files:
        kind = file_argument if metavar == "FILE" else folder_argument
        parser.add_argument(name, type=kind, metavar=metavar, help=text)
    parser.add_argument(
        "--until",
        type=_env_steps,
        metavar="STEPS",
        help="last env_steps to include; runs of different length are then pooled",
    )
    try:
        options = parser.parse_args(arguments)
        report(
            options.runs,
            options.out,
            options.html,
            options.latex,
            options.markdown,
            options.figures,
            options.until,
        )
    except ValueError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
