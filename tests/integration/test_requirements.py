"""What pyproject.toml allows, against the versions that were tested, and the audit of these."""

import tomllib

import audit
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Ray is not among the tested versions; pyproject.toml says why.
REQUIRED = [
    *PROJECT["dependencies"],
    *(word for extra, words in EXTRAS.items() if extra != "ray" for word in words),
]
TESTED = {
    canonicalize_name(each.name): Version(next(iter(each.specifier)).version)
    for each in map(
        Requirement,
        (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"),
    )
}


@pytest.mark.parametrize(
    "words", [word for word in REQUIRED if not word.startswith("mtrl-fairgrad")]
)
def test_the_tested_version_is_one_that_is_allowed(words):
    """The lower bounds themselves are not installed by any test: what is shown is shown for the
    tested versions.
    """
    wanted = Requirement(words)
    assert TESTED[canonicalize_name(wanted.name)] in wanted.specifier
    lowest = [Version(each.version) for each in wanted.specifier if each.operator in (">=", "==")]
    assert wanted.name == "packaging" or len(lowest) == 1, "a lower bound for each"


def answer(*dependencies):
    return {"dependencies": [{"name": name, "version": "1", **rest} for name, rest in dependencies]}


WELL, SKIPPED = ("a", {"vulns": []}), ("b", {"skip_reason": "not found"})
BAD = ("c", {"vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]})


@pytest.mark.parametrize(
    ("found", "clean", "said"),
    [
        (answer(WELL), True, "audit: none of 1 packages"),
        (answer(WELL, BAD, SKIPPED), False, "audit: 1 known vulnerabilities"),
        (answer(WELL, SKIPPED), None, "audit: NOT done for 1 packages"),
        (answer(), None, "audit: NOT done for all packages"),
    ],
)
def test_an_audit_that_was_not_done_is_no_clean_one(found, clean, said):
    verdict, lines = audit.verdict(found)
    assert verdict is clean and lines[-1].startswith(said)


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--require"], 1)])
def test_without_a_network_the_audit_says_so(words, code, tmp_path, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(audit.urllib.request, "urlopen", unreachable)
    assert audit.main([str(tmp_path / "env"), *words]) == code
    assert (
        "NOT done for all packages, advisories are out of reach (OSError: no route)"
        in capsys.readouterr().out
    )
    assert not (tmp_path / "env").exists()
