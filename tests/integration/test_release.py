"""What a release consists of: citation, container, and the description on a package index.

Files of wheel and sdist are compared with the repository's by scripts/smoke_test.py.
"""

import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest
import yaml

from tests.support.paths import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
REPOSITORY = "https://github.com/OWNER/NAME"


@pytest.fixture
def hook(monkeypatch):
    """The module hatch_build, without the build backend, which only its environment has."""
    interface = SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)
    monkeypatch.syspath_prepend(ROOT)
    import hatch_build

    yield hatch_build
    sys.modules.pop("hatch_build")


# ---- clone ----


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_links_of_the_repository_stay_in_it_and_an_environment_is_none_of_its_files():
    command = ["git", "ls-files", "--stage"]
    files = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    links = [line.partition("\t")[2] for line in files.splitlines() if line.startswith("120000")]
    assert {"agents", "envs"} <= set(links)
    assert all((ROOT / link).resolve().is_relative_to(ROOT.resolve()) for link in links)
    # Without a slash at the end: a link to an environment elsewhere is ignored, too.
    assert ".venv" in (ROOT / ".gitignore").read_text().splitlines()


# ---- description and citation ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](docs/a.md#b)", f"[a]({REPOSITORY}/blob/v1/docs/a.md#b)"),
        ("![a](docs/a.webp)", f"![a]({REPOSITORY}/raw/v1/docs/a.webp)"),
        ("[![a](b.svg)](c.md)", f"[![a]({REPOSITORY}/raw/v1/b.svg)]({REPOSITORY}/blob/v1/c.md)"),
        ('<img src="b.png">', f'<img src="{REPOSITORY}/raw/v1/b.png">'),
        ("[a](#b) [c](https://d) <a@b.c>", "[a](#b) [c](https://d) <a@b.c>"),
        ("```\n[a](b)\n```\n", "```\n[a](b)\n```\n"),
    ],
)
def test_links_of_the_description_become_those_of_the_tag(hook, text, expected):
    assert hook.absolute(text, REPOSITORY, "v1") == expected


def test_the_description_is_the_readme_with_absolute_links(hook, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    described = SimpleNamespace(root=str(ROOT))
    metadata = {"version": "1.0"}
    monkeypatch.setenv("REPOSITORY_URL", REPOSITORY)
    hook.CustomMetadataHook.update(described, metadata)
    text = re.sub(r"^```.*?^```", "", metadata["readme"]["text"], flags=re.M | re.S)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 5 and all(re.match("https?:|#", link) for link in links)
    assert {"Repository", "Documentation", "Changelog", "Issues"} <= metadata["urls"].keys()
    monkeypatch.delenv("REPOSITORY_URL")
    hook.CustomMetadataHook.update(described, metadata)
    assert metadata["readme"]["text"] == readme and "Repository" not in metadata["urls"]
    assert set(PROJECT["dynamic"]) == {"readme", "urls"}


def test_the_citation_is_of_this_version_and_of_the_paper():
    assert CITATION["version"] == PROJECT["version"] and CITATION["title"] == PROJECT["name"]
    assert CITATION["license"] == PROJECT["license"]
    required = {"cff-version", "message", "title", "authors"}  # Citation File Format 1.2.0
    assert required <= CITATION.keys() and CITATION["cff-version"] == "1.2.0"
    paper = CITATION["preferred-citation"]
    assert {"type", "title", "authors", "year", "url"} <= paper.keys()
    assert [author["family-names"] for author in paper["authors"]] == ["Ban", "Ji"]


# ---- container ----


def test_the_container_is_built_of_files_that_its_context_has():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    context = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored[0] == "*" and all((ROOT / path).exists() for path in context)
    # What the build reads, and what it packs.
    assert {"pyproject.toml", "README.md", "LICENSE", "hatch_build.py"} <= context
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"]} <= context
    for copied in re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, flags=re.M):
        assert copied == "." or copied in context


def test_the_container_runs_a_command_and_installs_extras_that_exist():
    [command] = re.findall(r'^ENTRYPOINT \["(.*)"\]$', DOCKERFILE, flags=re.M)
    assert command in PROJECT["scripts"]
    [extras] = re.findall(r"^ARG EXTRAS=(.*)$", DOCKERFILE, flags=re.M)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    [python] = re.findall(r"^ARG PYTHON=(.*)$", DOCKERFILE, flags=re.M)
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
