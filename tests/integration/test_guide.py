"""The method guide tells the truth: its table, its examples, and the code around them."""

import doctest
import re
import subprocess
import sys

import pytest

from mtrl_fairgrad import (
    GramianWeighting,
    JacobianAggregation,
    LossWeighting,
    make_method,
    method_names,
)
from tests.support.paths import ROOT

GUIDE = (ROOT / "docs" / "methods.md").read_text()
TABLE = dict(re.findall(r"^\| `(\w+)` \| (losses|Gramian|gradients) \|", GUIDE, re.MULTILINE))
SEES = {LossWeighting: "losses", GramianWeighting: "Gramian", JacobianAggregation: "gradients"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", method_names())
def test_every_method_is_in_the_table(name):
    kind = next(word for kind, word in SEES.items() if isinstance(make_method(name), kind))
    assert TABLE[name] == kind
    row = next(line for line in GUIDE.splitlines() if line.startswith(f"| `{name}` |"))
    assert ("losses ≥" in row) == make_method(name).needs_positive_losses
    assert ("second forward pass" in row) == make_method(name).looks_after_step


def test_the_table_has_no_others():
    assert set(TABLE) == set(method_names())


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_a_section_with_an_example(name):
    [section] = re.findall(rf"^### `{name}`: .*?(?=^##)", GUIDE, re.MULTILINE | re.DOTALL)
    assert f"mtl.{type(make_method(name)).__name__}(" in section and "```pycon" in section


def test_the_examples_print_what_the_guide_shows():
    examples = doctest.DocTestParser().get_doctest(
        "\n".join(blocks("pycon")), {}, "docs/methods.md", "docs/methods.md", 0
    )
    assert len(examples.examples) > 40
    report: list[str] = []
    results = doctest.DocTestRunner().run(examples, out=report.append)
    assert results.failed == 0, "".join(report)


LOOP = """
import torch
torch.manual_seed(0)
encoder, heads = torch.nn.Linear(4, 5), torch.nn.ModuleList(torch.nn.Linear(5, 1) for _ in range(3))
hidden = encoder(torch.ones(2, 4)).tanh()
losses = [(head(hidden) - i).square().mean() for i, head in enumerate(heads)]
gramian = torch.eye(3)
import mtrl_fairgrad
keep = mtrl_fairgrad.backward
"""


def test_the_snippets_run():
    """One after the other, each on losses of its own."""
    code = LOOP
    for block in blocks("python"):
        code += (
            "\n"
            + block
            + "\nhidden = encoder(torch.ones(2, 4)).tanh()"
            + "\nlosses = [(head(hidden) - 1).square().mean() for head in heads]"
        )
    run(code)


def test_the_example_of_ones_own_method_works_everywhere():
    example = next(block for block in blocks("python") if "@register" in block)
    output = run(
        LOOP
        + example
        + """
from mtrl_fairgrad import backward, make_method
print(backward(losses, make_method("unit_gradients"), shared=encoder.parameters())["norms"].shape)
from mtrl_fairgrad import train
train.main(["method=unit_gradients", "--cfg", "job"])
"""
    )
    assert "torch.Size([3])" in output
    assert "name: unit_gradients" in output
