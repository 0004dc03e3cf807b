"""Check the tested versions for known vulnerabilities.

    make audit
    python scripts/audit.py FOLDER [--require]

pip-audit looks up every line of constraints.txt in the advisories of pypi.org. It is installed into
FOLDER, a virtual environment of its own. The exit code is 1 if a version has a known vulnerability,
otherwise 0. Without a network some or all packages cannot be checked: the last line then says so,
and only with --require the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # runs before anything is installed

from mtrl_fairgrad.utils.entry_point import entry_point  # noqa: E402

ADVISORIES = "https://pypi.org/pypi/{}/{}/json"
SECONDS = 300
"""Time limit of the installation, and of the audit."""


@entry_point
def main(arguments: list[str] | None = None) -> int:
    """Audit and print the result; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="environment of pip-audit, created if missing")
    parser.add_argument(
        "--require", action="store_true", help="fail if a package could not be checked"
    )
    given = parser.parse_args(arguments)
    try:
        pinned = next(
            line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
        )
        with urllib.request.urlopen(ADVISORIES.format(*pinned.split("==")), timeout=20):
            pass  # check that advisories can be reached before installing pip-audit
        report = audit(given.folder)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        report = {"dependencies": [], "unreachable": f"{type(error).__name__}: {error}"}
    clean, lines = verdict(report)
    print("\n".join(lines))
    return int(clean is False or (clean is None and given.require))


def audit(folder: Path) -> dict[str, Any]:
    """Return the JSON report of pip-audit on constraints.txt."""
    program = folder / "bin" / "pip-audit"
    if not program.exists():
        venv.create(folder, with_pip=True)
        subprocess.run(
            [folder / "bin" / "pip", "install", "--quiet", "pip-audit"], check=True, timeout=SECONDS
        )
    command = [program, "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
    command += ["--requirement", ROOT / "constraints.txt"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    return json.loads(answer.stdout)


def verdict(report: dict[str, Any]) -> tuple[bool | None, list[str]]:
    """Return whether no vulnerability is known, and the lines to print, the verdict last.

    The first value is None if some packages could not be checked.
    """
    checked = [each for each in report["dependencies"] if "vulns" in each]
    skipped = [each for each in report["dependencies"] if "vulns" not in each]
    lines = [
        f"{each['name']} {each['version']}: {problem['id']}, fixed in "
        f"{problem['fix_versions'] or 'no version yet'}"
        for each in checked
        for problem in each["vulns"]
    ]
    if lines:
        return False, [
            *lines,
            f"audit: {len(lines)} known vulnerabilities in {len(checked)} packages",
        ]
    if not checked or skipped:
        why = report.get("unreachable") or (
            skipped[0].get("skip_reason", "") if skipped else "no answer"
        )
        return None, [
            f"audit: NOT done for {len(skipped) or 'all'} packages, "
            f"advisories are out of reach ({why})"
        ]
    return True, [f"audit: none of {len(checked)} packages has a known vulnerability"]


if __name__ == "__main__":
    sys.exit(main())
