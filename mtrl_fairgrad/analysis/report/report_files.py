"""Write the report of training runs: tables on the terminal, report.csv, report.png and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from mtrl_fairgrad.analysis.report.figure_files import as_png, pdf_figures
from mtrl_fairgrad.analysis.report.formats import as_csv, as_latex, as_markdown, as_text
from mtrl_fairgrad.analysis.report.protocol_blocks import make_blocks
from mtrl_fairgrad.analysis.run_groups import ReportError, pool
from mtrl_fairgrad.runs.run_dir import CHECKSUMS, FIGURE, REPORT, RunFolder
from mtrl_fairgrad.utils.atomic_io import make_folders, write_atomic, writing_remedy
from mtrl_fairgrad.utils.clean_text import clean


def write_report(
    paths: Sequence[Path],
    folder: Path,
    html: Path | None = None,
    latex: Path | None = None,
    markdown: Path | None = None,
    figures: Path | None = None,
    until: int | None = None,
) -> None:
    """Print the tables and write all files.

    Args:
        paths: one or more run folders.
        folder: where to write report.csv, report.png and, for `verify` and `sha256sum -c`, the
            SHA-256 of both.
        html: file for the page with all tables, figures and videos.
        latex: file for the tables, for a document that uses booktabs.
        markdown: file for the tables, for GitHub.
        figures: folder for the figures as PDF.
        until: last env_steps to include; runs that differ in length alone are then pooled.

    Raises:
        RunFolderError: a folder holds no run, or one that cannot be reported.
        ReportError: a file cannot be written.
    """
    groups = pool([RunFolder.open(path) for path in paths], until)
    blocks = make_blocks(groups)
    print(as_text(blocks))
    table, figure = as_csv(groups).encode(), as_png(groups)
    sums = [
        f"{sha256(data).hexdigest()}  {name}\n"
        for name, data in ((REPORT, table), (FIGURE, figure))
    ]
    # The table last: a finished run without it has its report made again.
    contents = {
        folder / FIGURE: figure,
        folder / CHECKSUMS: "".join(sums).encode(),
        folder / REPORT: table,
    }
    if html is not None:
        from mtrl_fairgrad.analysis.report.html import as_html

        contents[html] = as_html(blocks).encode()
    if latex is not None:
        contents[latex] = as_latex(blocks).encode()
    if markdown is not None:
        contents[markdown] = as_markdown(blocks).encode()
    if figures is not None:
        contents |= {figures / name: pdf for name, pdf in pdf_figures(blocks)}
    _write(contents)
    print(f"\nwritten: {clean(', '.join(map(str, contents)))}")


def _write(contents: Mapping[Path, bytes]) -> None:
    for path, content in contents.items():
        try:
            make_folders(path.parent)
            write_atomic(path, content)
        except OSError as error:
            fix = writing_remedy(error, "give another folder with --out, or another file")
            raise ReportError(
                f"the report cannot be written to {path} ({error.strerror}): {fix}."
            ) from error
