"""The pages of docs/methods/ tell the truth about every method."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from mtrl_fairgrad import (
    GramianWeighting,
    JacobianAggregation,
    LossWeighting,
    make_method,
    method_names,
)
from tests.support.page_code import SET_UP
from tests.support.pages import DOCS, code
from tests.support.paths import ROOT

INDEX = (DOCS / "methods" / "index.md").read_text()
TABLE = dict(
    re.findall(r"^\| \[`(\w+)`\]\(\1\.md\) \| (losses|Gramian|gradients) \|", INDEX, re.MULTILINE)
)
SEES = {LossWeighting: "losses", GramianWeighting: "Gramian", JacobianAggregation: "gradients"}
AROUND = {"index", "choices"}


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_in_the_table(name):
    kind = next(word for kind, word in SEES.items() if isinstance(make_method(name), kind))
    assert TABLE[name] == kind
    row = next(line for line in INDEX.splitlines() if line.startswith(f"| [`{name}`]"))
    assert ("losses ≥" in row) == make_method(name).needs_positive_losses
    assert ("second forward pass" in row) == make_method(name).looks_after_step


def test_table_and_pages_have_no_others():
    assert set(TABLE) == set(method_names())
    pages = {page.stem for page in (DOCS / "methods").glob("*.md")}
    assert pages == set(method_names()) | AROUND
    pictures = {picture.stem for picture in (DOCS / "assets" / "methods").glob("*.svg")}
    assert pictures == set(method_names())


@pytest.mark.parametrize("name", method_names())
def test_a_methods_page_has_equation_picture_example_cost_and_options(name):
    page = DOCS / "methods" / f"{name}.md"
    text, method = page.read_text(), type(make_method(name))
    assert re.search(r"^\$\$\n.+\n\$\$$", text, re.MULTILINE | re.DOTALL)
    assert f"](../assets/methods/{name}.svg)" in text
    assert f"mtl.{method.__name__}(" in "".join(code(page, "pycon"))
    assert "**Cost.**" in text and f"`method={name}`" in text
    assert re.search(rf"^::: {method.__module__}\.{method.__name__}$", text, re.MULTILINE)


@pytest.mark.parametrize("name", method_names())
def test_a_picture_is_small_and_shows_both_gradients(name):
    picture = DOCS / "assets" / "methods" / f"{name}.svg"
    assert picture.stat().st_size < 100_000
    assert ET.parse(picture).getroot().tag.endswith("svg")


def test_ones_own_method_of_the_guide_works_everywhere():
    example, *_ = code(DOCS / "extend" / "method.md", "python")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{SET_UP}\n{example}\n"
            "from mtrl_fairgrad import backward, make_method\n"
            "losses = [head(encoder(torch.ones(2, 4))).square().mean() for head in heads]\n"
            "method = make_method('unit_gradients')\n"
            "print(backward(losses, method, shared=encoder.parameters())['norms'].shape)\n"
            "from mtrl_fairgrad import train\n"
            "train.main(['method=unit_gradients', '--cfg', 'job'])\n",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([3])" in done.stdout and "name: unit_gradients" in done.stdout
