"""The README and the pages of docs/: links lead somewhere, code runs, commands are accepted."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.tiny_runs import composed

README = (ROOT / "README.md").read_text()
PAGES = sorted(
    path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")] if path.name != "DESIGN.md"
)
SET_UP = """
import torch
torch.manual_seed(0)
encoder, heads = torch.nn.Linear(4, 5), torch.nn.ModuleList(torch.nn.Linear(5, 1) for _ in range(3))
optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters()], lr=0.1)
criterion = torch.nn.functional.mse_loss
batches = [[(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(3)] for _ in range(4)]
loader, inputs, parts = batches, torch.randn(8, 4), [torch.randn(4, 4), torch.randn(4, 4)]
def task_losses(part):
    return [head(encoder(part).tanh()).square().mean() for head in heads]
example = inputs.clone()
losses = task_losses(example)
"""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def execute(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# ---- form ----


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 250


def test_the_first_screen_installs_the_library_and_changes_a_training_loop():
    screen = "\n".join(README.splitlines()[:40])
    assert "pip install mtrl-fairgrad" in screen and 'pip install "mtrl-fairgrad[rl]"' in screen
    assert "```diff" in screen and "python -m mtrl_fairgrad.train env=mt10" in screen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_to_a_file_and_a_heading(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    missing = [
        page.name
        for page in (ROOT / "docs").glob("*.md")
        if page.name != "index.md" and f"]({page.name})" not in index
    ]
    assert missing == []


# ---- code ----


def test_the_training_loop_of_the_readme_runs_before_and_after_its_change():
    [diff] = blocks(README, "diff")
    lines = diff.splitlines()
    before = "\n".join(line[1:] for line in lines if line[:1] != "+")
    after = "\n".join(line[1:] for line in lines if line[:1] != "-")
    assert "sum(losses).backward()" in before and "backward(losses, method" in after
    for loop in (before, after):
        execute(
            f"{SET_UP}\nstart = encoder.weight.detach().clone()\n{loop}\n"
            "assert not torch.equal(encoder.weight, start)"
        )


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/library.md"])
def test_the_code_of_a_page_runs(page):
    """One block after the other, each with fresh losses."""
    code = blocks((ROOT / page).read_text(), "python")
    assert code
    execute("\nlosses = task_losses(example)\n".join([SET_UP, *code]))


# ---- commands ----


def commands() -> list[tuple[str, str]]:
    """Every command line in the pages, without prompts, comments and `--multirun` sweeps split."""
    found = []
    for page in PAGES:
        for block in blocks(page.read_text(), "console"):
            variables: dict[str, str] = {}
            for line in block.replace("\\\n", " ").splitlines():
                if not line.startswith("$ "):
                    continue
                command = re.split(r"\s#\s|\s{2,}#", line[2:])[0].strip()
                for name in sorted(variables, key=len, reverse=True):
                    command = command.replace(f"${name}", variables[name])
                if named := re.fullmatch(r'(\w+)="(.*)"', command):
                    variables[named[1]] = named[2]
                else:
                    found.append((page.name, command))
    return sorted(set(found))


def ids(value: str) -> str:
    return value[:80]


@pytest.mark.parametrize(
    ("page", "command"), [each for each in commands() if "mtrl_fairgrad." in each[1]], ids=ids
)
def test_every_command_of_the_pages_is_accepted(page, command, capsys, monkeypatch, tmp_path):
    words = shlex.split(command)
    module, arguments = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
    if module in ("mtrl_fairgrad.train", "mtrl_fairgrad.search"):
        overrides = [
            word
            for word in arguments
            if not word.startswith(("-", "resume=", "hydra/", "search.")) and word != "method=NAME"
        ]
        # one run of a sweep
        overrides = [re.sub(r"=(\w+|\[\d\]),.*", r"=\1", word) for word in overrides]
        assert composed(*overrides)
        return
    if module == "mtrl_fairgrad.supervised":
        assert import_module(f"{module}.__main__").main([*arguments, "--cfg", "job"]) == 0
        return
    monkeypatch.chdir(tmp_path)
    assert import_module(module).main(arguments) == 2
    error = capsys.readouterr().err
    assert "usage" not in error and "unrecognized" not in error, error
    assert any(word.split("*")[0] in error for word in arguments), error  # no such run here


@pytest.mark.parametrize(
    ("page", "command"),
    [each for each in commands() if re.search(r"(^|python )scripts/|^make |^mtrl-", each[1])],
    ids=ids,
)
def test_scripts_and_make_targets_of_the_pages_exist(page, command):
    words = shlex.split(command)
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word and word != "…"]
        text = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", text, re.MULTILINE) for target in targets)
        return
    [script] = [word for word in words if word.startswith("scripts/")][:1]
    text = (ROOT / script).read_text()
    for option in re.findall(r"(?<= )--[\w-]+", command):
        assert option in text, f"{script} has no {option}"
