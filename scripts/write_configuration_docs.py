"""Write docs/configuration.md from the configuration's dataclasses and YAML files.

Run `python scripts/write_configuration_docs.py` after a change of an option.
"""

from __future__ import annotations

from pathlib import Path

from mtrl_fairgrad.config.option_docs import choice_tables, markdown_tables
from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.supervised.config import SupervisedConfig

PATH = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

<!-- Written by scripts/write_configuration_docs.py: edit the dataclasses or YAML files instead. -->

Every option of `python -m mtrl_fairgrad.train` and `python -m mtrl_fairgrad.supervised`. Give
options as `key=value`, choose groups as `env=mt10 method=fairgrad preset=quick`; `--help` lists
all options with the values of the given command line. Presets and environments change some of
these defaults: see the files below `configs/`.
"""


def text() -> str:
    """Return the text of docs/configuration.md."""
    lines = [
        INTRODUCTION,
        "## Training",
        *markdown_tables(Config()),
        "",
        "## Supervised benchmarks",
        *markdown_tables(SupervisedConfig()),
        *choice_tables("benchmark"),
        "",
        "## Methods",
        *choice_tables("method"),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
