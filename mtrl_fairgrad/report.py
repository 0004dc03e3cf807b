"""Report on runs: `python -m mtrl_fairgrad.report RUNS... [--out DIR] [--html FILE] [--until STEPS]
…`.

Of supervised runs it prints what they reached beside the paper's tables: see
`mtrl_fairgrad.supervised.paper_comparison`.

Of training runs it prints tables and writes report.csv and report.png; --html adds one
self-contained page, --latex and --markdown the tables for a paper or an issue, --figures the
figures as PDF. Runs whose configurations differ only in seeds and in where they ran are pooled;
runs of different protocols stand in blocks of their own and are never averaged or compared. With
--until 100000 nothing beyond 100,000 env_steps counts, and runs that differ in their length alone
are pooled, too.

report.csv has a row per method and task, and one with task "mean" for the mean over tasks: success
rates of the evaluation before training (`untrained`), of the last one (`final`), and of the one
where the mean over tasks and seeds was highest (`best`, the paper's number); `*_stderr` is over
seeds and empty for one seed. Only the row "mean" has the 95 % interval of the final mean
(`final_low`, `final_high`), the interquartile mean of the last evaluation with its own
(`final_iqm*`), what all runs took together (`wall_seconds`), the median `updates_per_second`, what
the paper's Table 4 prints for the method (`paper_best*`), which was measured under another
protocol, and the area below the learning curve over its length (`course*`).
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from mtrl_fairgrad.analysis.report.figure_style import draw
from mtrl_fairgrad.analysis.report.formats import (
    as_csv,
    as_latex,
    as_markdown,
    as_text,
    blocks_as_text,
)
from mtrl_fairgrad.analysis.report.protocol_blocks import Block, make_blocks
from mtrl_fairgrad.analysis.run_groups import Group, ReportError, pool
from mtrl_fairgrad.runs.run_dir import RunFolder, write_atomic
from mtrl_fairgrad.supervised.fit_folder import fit_folders, is_fit_folder
from mtrl_fairgrad.utils.arguments import Parser, fail, named

__all__ = ["as_csv", "as_text", "main", "png", "report"]


def report(
    paths: Iterable[str | Path],
    out: str | Path | None = None,
    html: str | Path | None = None,
    latex: str | Path | None = None,
    markdown: str | Path | None = None,
    figures: str | Path | None = None,
    until: int | None = None,
) -> Path:
    """Print the tables and write report.csv and report.png, or paper_comparison.csv; returns their folder.

    Args:
        paths: run folders, at least one, either of training or of supervised runs, which have
            tables only.
        out: where to write; by default the run's folder if it is only one, else ./report.
        html: file for the page with everything.
        latex: file for the tables, for a document that uses booktabs.
        markdown: file for the tables, for GitHub.
        figures: folder for the figures as PDF.
        until: env_steps beyond which nothing counts; runs that differ in length alone are then
            pooled, too.

    Raises:
        ValueError: no report can be made of these runs, or it cannot be written.
    """
    given = [Path(path) for path in paths]
    folder = Path(out) if out is not None else given[0] if len(given) == 1 else Path("report")
    if _supervised(given):
        # Here, because all its benchmarks come with it.
        from mtrl_fairgrad.supervised.paper_comparison import compare_with_paper

        if any(option is not None for option in (html, latex, markdown, figures, until)):
            raise ReportError(
                "--html, --latex, --markdown, --figures and --until are for training runs: leave "
                "them out."
            )
        compare_with_paper(given, folder)
        return folder
    groups = pool([RunFolder.open(path) for path in given], until)
    blocks = make_blocks(groups)
    print(blocks_as_text(blocks))
    contents = {folder / "report.csv": as_csv(groups).encode(), folder / "report.png": png(groups)}
    if html is not None:
        from mtrl_fairgrad.analysis.report.html import as_html

        contents[Path(html)] = as_html(blocks).encode()
    if latex is not None:
        contents[Path(latex)] = as_latex(blocks).encode()
    if markdown is not None:
        contents[Path(markdown)] = as_markdown(blocks).encode()
    if figures is not None:
        contents |= {Path(figures) / name: pdf for name, pdf in _figures(blocks)}
    _write(contents)
    return folder


def _supervised(paths: Sequence[Path]) -> bool:
    """Whether all of these folders are of supervised runs.

    Raises:
        ValueError: only some are, or one holds no run at all.
    """
    kinds: dict[bool, Path] = {}
    for path in paths:
        supervised = (
            is_fit_folder(path)
            if (path / "config.yaml").is_file()
            else (path / "toy.csv").is_file() or bool(fit_folders(path))
        )
        if not supervised:
            RunFolder.open(path)
        kinds[supervised] = path
    if len(kinds) > 1:
        raise ReportError(
            f"{kinds[True]} is a supervised run but {kinds[False]} a training run: report on one "
            "kind at a time."
        )
    return True in kinds


def png(groups: Sequence[Group]) -> bytes:
    """Their learning curves, as in report.png."""
    image = io.BytesIO()
    draw(groups).savefig(image, format="png")
    return image.getvalue()


def _figures(blocks: Sequence[Block]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the PDF files; numbered by block where there are several."""
    from mtrl_fairgrad.analysis.report import charts
    from mtrl_fairgrad.analysis.report.svg import as_pdf

    for n, block in enumerate(blocks, start=1):
        ending = f"-{n}.pdf" if len(blocks) > 1 else ".pdf"
        legend = [(group.label, block.styles[group.label]) for group in block.groups]
        spread, conflicts, (weights, _) = (
            charts.intervals(block),
            charts.conflicts(block),
            charts.weights(block),
        )
        yield f"curves{ending}", as_pdf([charts.curve(block)], block.protocol, legend, 1)
        yield f"heatmap{ending}", as_pdf([charts.heat_map(block)], block.protocol, [], 1)
        if charts.task_curves(block):
            yield f"tasks{ending}", as_pdf(charts.task_curves(block), block.protocol, legend, 5)
        if spread is not None:
            yield f"intervals{ending}", as_pdf([spread], block.protocol, [], 1)
        if conflicts:
            yield f"conflict{ending}", as_pdf(conflicts, block.protocol, legend, 2)
        if weights:
            yield f"weights{ending}", as_pdf(weights, block.protocol, [], 2)


def _steps(text: str) -> int:
    """A number of env_steps of the command line, as an argument's type."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of env_steps: give one from 0 on, such as 100000"
        )
    return int(text)


def _write(contents: dict[Path, bytes]) -> None:
    for path, content in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
        except OSError as error:
            raise ReportError(
                f"the report cannot be written to {path} ({error.strerror}): give another folder "
                "with --out, or another file."
            ) from error
    print(f"\nwritten: {', '.join(str(path) for path in contents)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Report on the runs of the command line; returns the exit code, 2 after a mistake told in one
    line.
    """
    parser = Parser(
        "python -m mtrl_fairgrad.report",
        description="Tables and figures of training runs, supervised runs beside the paper.",
    )
    parser.add_argument(
        "runs", type=named, nargs="+", metavar="RUN", help="run folder, as the command printed it"
    )
    parser.add_argument(
        "--out",
        type=named,
        metavar="DIR",
        help="where to write (default: the run if only one, else report/)",
    )
    parser.add_argument(
        "--html",
        type=named,
        metavar="FILE",
        help="also write one page with all tables, figures and videos",
    )
    parser.add_argument(
        "--latex", type=named, metavar="FILE", help="also write the tables in LaTeX (booktabs)"
    )
    parser.add_argument(
        "--markdown", type=named, metavar="FILE", help="also write the tables in Markdown"
    )
    parser.add_argument(
        "--figures", type=named, metavar="DIR", help="also write the figures as PDF"
    )
    parser.add_argument(
        "--until",
        type=_steps,
        metavar="STEPS",
        help="count nothing beyond, and pool runs whatever their length",
    )
    try:
        given = parser.parse_args(arguments)
        report(
            given.runs,
            given.out,
            given.html,
            given.latex,
            given.markdown,
            given.figures,
            given.until,
        )
    except ValueError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
