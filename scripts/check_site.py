"""Check a built site: every local link, picture and anchor exists, and nothing is loaded from afar.

    python scripts/check_site.py site

Links to other sites are allowed but not followed. What a page loads (scripts, styles, pictures,
fonts) has to be part of the site, so that reading it tells nobody.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mtrl_fairgrad.utils.entry_point import entry_point

LOADED = {"script": "src", "img": "src", "source": "src", "video": "src", "iframe": "src"}
"""Elements that load something, and where they say what."""


class Document(HTMLParser):
    """What an HTML file links to, what it loads, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect from the beginning of an element."""
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loads.append(given.get("href", ""))
        if tag in LOADED and LOADED[tag] in given:
            self.loads.append(given[LOADED[tag]])


def faults(site: Path) -> Iterator[str]:
    """Yield a sentence for each link or file that is not right."""
    documents = {path: Document(path) for path in sorted(site.rglob("*.html"))}
    if not documents:
        yield f"{site} has no HTML files: build the site first, with make docs."
    for path, document in documents.items():
        if path.name == "404.html":  # its links begin at the root of wherever the site is served
            continue
        for link in [*document.links, *document.loads]:
            where = urlsplit(link)
            if where.scheme or where.netloc:
                if link in document.loads and where.scheme != "data":
                    yield f"{path}: loads {link}, which is not part of the site."
                continue
            target = (path.parent / unquote(where.path)).resolve() if where.path else path
            if target.is_dir():
                target /= "index.html"
            if not (target.is_relative_to(site) and target.is_file()):
                yield f"{path}: {link} leads nowhere."
            elif where.fragment and target in documents:
                name = unquote(where.fragment)
                if not name.startswith("__") and name not in documents[target].anchors:
                    yield f"{path}: {link} has no such heading."
    for sheet in sorted(site.rglob("*.css")):
        for link in re.findall(r"url\(['\"]?((?:https?:)?//[^)'\"]+)", sheet.read_text()):
            yield f"{sheet}: loads {link}, which is not part of the site."


@entry_point
def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is wrong with a site; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("site", type=Path, metavar="SITE")
    found = list(faults(parser.parse_args(arguments).site.resolve()))
    print("\n".join(found) or "check_site: every link leads somewhere, and nothing is from afar")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
