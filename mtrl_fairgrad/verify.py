"""Verify that a run's report can be trusted: `python -m mtrl_fairgrad.verify RUN [--json]`.

It reads everything and changes nothing:

    configuration   config.yaml is the one that the run began with (`steps` may have grown)
    manifest        contains versions, commit, machine and protocol; notes say which numbers were
                    made after a resume with others
    evaluations     every due env_steps × seed × task exactly once, in order, up to the run's end
    checkpoints     every file has its SHA-256, the newest checkpoint is at the run's end
    history         manifest, evaluations, curves and resumes begin as when the checkpoints were
                    made, faults are those of the newest one
    policies        exported ones have their SHA-256 and record the success rates of the evaluations
    report          can be made; the files of the one that is there have their SHA-256

A finished run without checkpoints, as runs are published, passes: its files are complete and agree
with each other, but no checksum of training covers them.

Of supervised fits, alone or all of a run's, it checks that epochs.csv has the numbers of the
checkpoint and that outcome.json follows from them; of a run, that table.csv and search.csv follow
from its configuration and its fits. Of the toy problem it computes the losses of all points and the
arrivals again.

The exit code is 0 if all checks pass, 1 if the report cannot be trusted, 2 if there is no run.
Checksums detect corruption and accidents, not deliberate tampering.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mtrl_fairgrad.utils.extras import require_for_command

require_for_command(__name__)

from mtrl_fairgrad.analysis.verification import Finding, verify
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.supervised.fit_folder import fit_folders, is_described
from mtrl_fairgrad.utils.arguments import Parser, fail, path_argument
from mtrl_fairgrad.utils.entry_point import entry_point
from mtrl_fairgrad.utils.safe_files import is_present
from mtrl_fairgrad.utils.validation import ConfigError, one_line

COMPLETE, PUBLISHED = "with checkpoints", "published without checkpoints"
TOY = "recomputed from its formula"
"""States of a run."""
_VERDICTS = {
    TOY: "can be trusted: its losses and arrivals follow from its points",
    COMPLETE: "can be trusted: its files are complete and unchanged since training",
    PUBLISHED: "has complete files that agree with each other; published without checkpoints, "
    "it relies on whoever published it",
}
_SHOWN = 5
"""Largest number of problems that are printed for a check."""


@entry_point
def main(arguments: Sequence[str] | None = None) -> int:
    """Verify the run of the command line and print the findings; returns the exit code."""
    parser = Parser(
        prog="python -m mtrl_fairgrad.verify",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("run", type=path_argument, help="run folder")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    try:
        options = parser.parse_args(arguments)
        state = COMPLETE
        if is_present(options.run / "toy.csv"):
            from mtrl_fairgrad.supervised.benchmarks.toy_files import verify_toy  # loads torch

            findings, state = verify_toy(options.run), TOY
        elif is_described(options.run) or fit_folders(options.run):
            from mtrl_fairgrad.supervised.verification import verify_fits  # loads benchmarks

            findings = verify_fits(options.run)
        else:
            folder = RunFolder.open(options.run)
            findings = verify(folder)
            state = COMPLETE if folder.has_checkpoint() else PUBLISHED
    except (ConfigError, RunFolderError) as error:
        return fail(error)
    trusted = not any(finding.problems for finding in findings)
    if options.json:
        # `said` is the name of `summary` in version 0.1.
        listed = [{**asdict(finding), "said": finding.summary} for finding in findings]
        result = {
            "run": str(options.run),
            "trusted": trusted,
            "state": state,
            "findings": listed,
        }
        print(json.dumps(result, indent=1))
    else:
        print("\n".join(map(one_line, _lines(options.run, findings, trusted, state))))
    return 0 if trusted else 1


def _lines(run: Path, findings: Sequence[Finding], trusted: bool, state: str) -> list[str]:
    lines: list[str] = []
    for finding in findings:
        problems = finding.problems[:_SHOWN]
        if more := len(finding.problems) - len(problems):
            problems.append(f"and {more} more")
        lines += [
            f"{'BAD' if problems else 'ok':5}{finding.check:15}{line}"
            for line in problems or [finding.summary]
        ]
        lines += [f"{'note':5}{finding.check:15}{note}" for note in finding.notes]
    verdict = _VERDICTS[state] if trusted else "cannot be trusted, for the reasons above"
    return [*lines, f"The report of {run} {verdict}."]


if __name__ == "__main__":
    sys.exit(main())
