"""Known vulnerabilities of the tested versions: `make audit`, or `python scripts/audit.py FOLDER`.

pip-audit asks the advisories of pypi.org about every line of constraints.txt. It is installed into
FOLDER, an environment of its own, and leaves the project's alone. Exit code 1: a version has a
known vulnerability. Exit code 0: none has, or some or all could not be asked about, which the last
line says, since a machine without network must not fail for that; with --require that is a failure,
too.
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
ADVISORIES = "https://pypi.org/pypi/{}/{}/json"
SECONDS = 300
"""For installing, and for asking."""


def main(arguments: list[str] | None = None) -> int:
    """Audit and say what was found; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where pip-audit is, or is to be installed")
    parser.add_argument(
        "--require", action="store_true", help="fail where something could not be audited"
    )
    given = parser.parse_args(arguments)
    try:
        pinned = next(
            line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
        )
        with urllib.request.urlopen(ADVISORIES.format(*pinned.split("==")), timeout=20):
            pass  # one of the questions, before pip-audit is installed to ask them all
        found = ask(given.folder)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        found = {"dependencies": [], "unasked": f"{type(error).__name__}: {error}"}
    clean, said = verdict(found)
    print("\n".join(said))
    return int(clean is False or (clean is None and given.require))


def ask(folder: Path) -> dict[str, Any]:
    """What pip-audit says of constraints.txt, as its JSON has it."""
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


def verdict(found: dict[str, Any]) -> tuple[bool | None, list[str]]:
    """Whether all is well, None if that is not known, and lines that say so, the verdict last."""
    asked = [each for each in found["dependencies"] if "vulns" in each]
    skipped = [each for each in found["dependencies"] if "vulns" not in each]
    lines = [
        f"{each['name']} {each['version']}: {problem['id']}, fixed in "
        f"{problem['fix_versions'] or 'no version yet'}"
        for each in asked
        for problem in each["vulns"]
    ]
    if lines:
        return False, [
            *lines,
            f"audit: {len(lines)} known vulnerabilities in {len(asked)} packages",
        ]
    if not asked or skipped:
        why = found.get("unasked") or (
            skipped[0].get("skip_reason", "") if skipped else "no answer"
        )
        return None, [
            f"audit: NOT done for {len(skipped) or 'all'} packages, advisories are out of reach "
            f"({why})"
        ]
    return True, [f"audit: none of {len(asked)} packages has a known vulnerability"]


if __name__ == "__main__":
    sys.exit(main())
