"""Hooks of the documentation site (`mkdocs.yml`): links into the repository, and equations.

Pages link to files of the repository by relative paths, so that they work on a code host and in an
editor. On the site, a page outside `docs/` becomes a page of the site, and any other file is served
next to it; see `PAGES` and `FILES`. Equations become MathML while the site is built, so that
reading it needs no script from elsewhere.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the repository outside `docs/` and their names on the site."""
FILES = "repository"
"""Folder of the site for other files of the repository that pages link to."""

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(?=(?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files of the repository that pages link to."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    unread = list(files.documentation_pages())
    while unread:
        page = unread.pop()
        for link in _LINK.findall(_FENCE.sub("", page.content_string)):
            place = _site_path(page.src_uri, link)
            if not place.startswith(f"{FILES}/") or files.get_file_from_path(place):
                continue
            source = ROOT / place.removeprefix(f"{FILES}/")
            if not source.is_file():
                raise FileNotFoundError(f"{source} is linked from {page.src_uri}, but is no file.")
            added = File.generated(
                config, place, abs_src_path=str(source), inclusion=InclusionLevel.NOT_IN_NAV
            )
            files.append(added)
            if added.is_documentation_page():
                unread.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links that leave `docs/` to their places on the site."""
    name = page.file.src_uri

    def replace(match: re.Match[str]) -> str:
        place = _site_path(name, match[1])
        return os.path.relpath(place, PurePosixPath(name).parent)

    outside = [(match.start(), match.end()) for match in _FENCE.finditer(markdown)]
    parts, end = [], 0
    for start, stop in outside:
        parts += [_LINK.sub(replace, markdown[end:start]), markdown[start:stop]]
        end = stop
    return "".join([*parts, _LINK.sub(replace, markdown[end:])])


def on_page_content(html: str, **_: Any) -> str:
    """Turn equations into MathML."""
    html = _BLOCK.sub(lambda match: _mathml(match[1], "block"), html)
    return _INLINE.sub(lambda match: _mathml(match[1], "inline"), html)


def _mathml(latex: str, display: str) -> str:
    from html import unescape

    return convert(unescape(latex).strip(), display=display)


def _site_path(page: str, link: str) -> str:
    """Return where a page's relative link leads: a path below the site's sources."""
    sources = {name: source for source, name in PAGES.items()}
    if page.startswith(f"{FILES}/"):
        source = page.removeprefix(f"{FILES}/")
    else:
        source = sources.get(page, f"docs/{page}")
    folder = PurePosixPath(source).parent
    target = os.path.normpath(folder / link)
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return PAGES.get(target, f"{FILES}/{target}")
