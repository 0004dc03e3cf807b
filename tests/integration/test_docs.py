"""The README and the pages of docs/: their form, links that lead somewhere, accepted commands."""

import re
import tomllib
from importlib import import_module

import pytest
import yaml

from tests.support.pages import (
    DOCS,
    PAGES,
    README,
    SITE,
    anchors,
    code,
    commands,
    links,
    name_of,
    shown_files,
    words,
)
from tests.support.paths import ROOT
from tests.support.tiny_runs import composed

TEXT = README.read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def navigation() -> list[str]:
    """Return the pages of the site's navigation in their order."""
    text = (ROOT / "mkdocs.yml").read_text()
    plain = re.sub(r"!!python\S+", "", text[text.index("nav:") : text.index("plugins:")])
    found: list[str] = []

    def collect(entry: object) -> None:
        if isinstance(entry, str):
            found.append(entry)
        elif isinstance(entry, dict):
            collect(list(entry.values()))
        elif isinstance(entry, list):
            for each in entry:
                collect(each)

    collect(yaml.safe_load(plain)["nav"])
    return found


# ---- form ----


def test_the_readme_has_at_most_200_lines():
    assert len(TEXT.splitlines()) <= 200


def test_the_first_screen_installs_the_library_and_changes_a_training_loop():
    screen = "\n".join(TEXT.splitlines()[:45])
    assert "pip install mtrl-fairgrad" in screen
    assert "```diff" in screen


def test_every_page_is_in_the_navigation_once():
    pages = {page.relative_to(DOCS).as_posix() for page in SITE}
    listed = navigation()
    assert sorted(listed) == sorted({*pages, "contributing.md", "changelog.md"})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_local_links_lead_to_a_file_and_a_heading(page):
    for link in links(page):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", SITE, ids=name_of)
def test_a_page_of_the_site_has_one_title(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1 and text.startswith("# ")


def test_every_example_is_shown():
    examples = {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}
    page = DOCS / "examples.md"
    assert shown_files(page) == examples
    assert {link.removeprefix("../") for link in links(page) if link.startswith("../")} >= examples


# ---- commands ----


def ids(value: str) -> str:
    return value[:80]


def test_every_command_is_of_a_kind_that_a_test_checks():
    known = re.compile(
        r"python (-m mtrl_fairgrad|scripts/|examples/)|scripts/|make( |$)|mtrl-|pip install |pipx "
        r"|tensorboard |cd |docker |\.venv/bin/pip |torchrun |mlflow |wandb |REPOSITORY_URL="
    )
    assert [command for _, command in commands() if not known.match(command)] == []


@pytest.mark.parametrize(
    ("page", "command"), [each for each in commands() if "mtrl_fairgrad." in each[1]], ids=ids
)
def test_every_command_of_the_pages_is_accepted(page, command, capsys, monkeypatch, tmp_path):
    parts = words(command)
    module, arguments = parts[parts.index("-m") + 1], parts[parts.index("-m") + 2 :]
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
    # There is no such run or policy here, of which the error names the file or its folder.
    missing = [re.sub(r"/policy-.*|\*.*", "", word) for word in arguments]
    assert any(word in error for word in missing), error


@pytest.mark.parametrize(
    ("page", "command"),
    [
        each
        for each in commands()
        if re.search(r"(^|python )(scripts|examples)/|^make |^mtrl-", each[1])
    ],
    ids=ids,
)
def test_scripts_and_make_targets_of_the_pages_exist(page, command):
    parts = words(command)
    if parts[0] == "make":
        targets = [word for word in parts[1:] if "=" not in word and word != "…"]
        text = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", text, re.MULTILINE) for target in targets)
        return
    [script] = [word for word in parts if word.startswith(("scripts/", "examples/"))][:1]
    text = (ROOT / script).read_text()
    for option in re.findall(r"(?<= )--[\w-]+", command):
        assert option in text, f"{script} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_extras_of_the_install_lines_exist(page):
    for names in re.findall(r"(?:mtrl-fairgrad|\.)\[([\w,]+)\]", page.read_text()):
        assert set(names.split(",")) <= set(EXTRAS), names


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_toml_blocks_are_toml(page):
    for block in code(page, "toml"):
        assert tomllib.loads(block)
