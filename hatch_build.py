"""Metadata that depends on where the repository is: the links of the README, and project URLs.

    REPOSITORY_URL=https://github.com/OWNER/NAME python -m build

The README links to files beside it. On a package index nothing lies beside it, so a release is
built with the repository's address, and links become those of the release's tag. Without an
address, as in an installation from a checkout, the README is used as it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

TARGET = re.compile(r'(\]\(|\b(?:src|srcset|href)=")(?!#|/|[a-z]+:)([^)"\s]+)')
"""A relative link in Markdown, or in HTML within it."""
PICTURE = re.compile(r"\.(gif|jpe?g|png|svg|webp)$")


class CustomMetadataHook(MetadataHookInterface):
    """Fill in `readme` and `urls`, which pyproject.toml declares as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the two fields to the metadata."""
        repository = os.environ.get("REPOSITORY_URL", "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        tag = f"v{metadata['version']}"
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(text, repository, tag) if repository else text,
        }
        metadata["urls"] = urls(repository, tag)


def urls(repository: str, tag: str) -> dict[str, str]:
    """Return the project's URLs; only the paper's if the repository is unknown."""
    paper = {"Paper": "https://arxiv.org/abs/2402.15638"}
    if not repository:
        return paper
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/{tag}/docs/index.md",
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
        **paper,
    }


def absolute(text: str, repository: str, tag: str) -> str:
    """Make the relative links of a Markdown text absolute, outside its code blocks.

    Args:
        text: Markdown; links of HTML tags in it count, too.
        repository: address of the repository on GitHub.
        tag: the tag that links point to.
    """

    def complete(found: re.Match[str]) -> str:
        before, target = found.groups()
        kind = "raw" if PICTURE.search(target) else "blob"
        return f"{before}{repository}/{kind}/{tag}/{target.removeprefix('./')}"

    parts = re.split(r"(^```.*?^```)", text, flags=re.M | re.S)
    return "".join(part if n % 2 else TARGET.sub(complete, part) for n, part in enumerate(parts))
