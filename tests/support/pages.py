"""The README, the pages of docs/ and what they contain: code blocks, links, headings, commands."""

import re
import shlex
from pathlib import Path

from tests.support.paths import ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.md"
SITE = sorted(DOCS.rglob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *SITE]

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str | None = None) -> list[tuple[str, str]]:
    """Return language and text of each fenced block, or of those in one language."""
    found = [(match[2], match[3]) for match in _FENCE.finditer(page.read_text())]
    return [each for each in found if language in (None, each[0])]


def code(page: Path, language: str) -> list[str]:
    """Return the blocks in a language, without those that show a file of `examples/`."""
    return [text for _, text in blocks(page, language) if not text.startswith("--8<--")]


def shown_files(page: Path) -> set[str]:
    return {name for _, text in blocks(page) for name in re.findall(r'--8<-- "(.+)"', text)}


def prose(page: Path) -> str:
    """Return a page's text without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts and the site make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands() -> list[tuple[str, str]]:
    """Return page and text of every command line, without prompts and comments, variables set."""
    found = []
    for page in PAGES:
        for block in code(page, "console"):
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
                    found.append((name_of(page), command))
    return sorted(set(found))


def words(command: str) -> list[str]:
    return shlex.split(command)
