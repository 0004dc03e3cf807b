"""Every Python block of the README and the site runs, and every shown result is true."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.support.page_code import SET_UP
from tests.support.pages import DOCS, PAGES, README, blocks, code, name_of
from tests.support.paths import ROOT

TRAINING = ("README.md", "docs/python.md", "docs/extend/network.md")
"""Pages that train; tests/exhaustive/test_docs_training.py runs them."""
NEEDS = {"docs/trainers.md": ("pytorch_lightning", "transformers", "accelerate")}
"""Pages with packages that only `make docs` installs."""
WITH_CODE = [
    name
    for page in PAGES
    if code(page, "python") + code(page, "pycon")
    for name in [name_of(page)]
    if name not in TRAINING
]


def missing(page: str) -> list[str]:
    return [name for name in NEEDS.get(page, ()) if find_spec(name) is None]


@pytest.fixture(scope="module")
def errors() -> dict[str, str | None]:
    """All pages in one process, since PyTorch takes seconds to import."""
    pages = [page for page in WITH_CODE if not missing(page)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.page_code", *pages],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page, errors):
    if missing(page):
        pytest.skip(f"needs {', '.join(missing(page))}, which `make docs` installs")
    assert errors[page] is None, errors[page]


def test_every_block_is_of_a_kind_that_a_test_checks():
    kinds = {language for page in PAGES for language, _ in blocks(page)}
    assert kinds <= {"python", "pycon", "console", "diff", "toml", "text", "bibtex", ""}


def test_the_paper_is_cited_as_in_the_citation_file():
    [entry] = code(DOCS / "paper.md", "bibtex")
    citation = (ROOT / "CITATION.cff").read_text()
    fields = dict(re.findall(r"(\w+) += \{(.*)\}", entry))
    assert all(fields[key] in citation for key in ("title", "booktitle", "year", "url"))
    assert all(name in citation for name in re.findall(r"\w+", fields["author"]) if name != "and")


def test_the_training_loop_of_the_readme_runs_before_and_after_its_change():
    [diff] = code(README, "diff")
    lines = diff.splitlines()
    before = "\n".join(line[1:] for line in lines if line[:1] != "+")
    after = "\n".join(line[1:] for line in lines if line[:1] != "-")
    assert "sum(losses).backward()" in before and "backward(losses, method" in after
    for loop in (before, after):
        namespace: dict[str, object] = {}
        exec(
            f"{SET_UP}\nstart = encoder.weight.detach().clone()\n{loop}\n"
            "moved = not torch.equal(encoder.weight, start)",
            namespace,
        )
        assert namespace["moved"]
