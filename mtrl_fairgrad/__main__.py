"""Every command under one name: `mtrl-fairgrad COMMAND …`, or `python -m mtrl_fairgrad COMMAND …`.

`pipx run` needs it: `pipx run --spec "mtrl-fairgrad[rl]" mtrl-fairgrad train preset=quick`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.entry_point import entry_point
from mtrl_fairgrad.utils.validation import ConfigError

COMMANDS = {
    "train": ("train", "train an agent on MT10, MT50 or your own tasks"),
    "evaluate": ("evaluate", "play every goal, export policies, record videos"),
    "report": ("report", "tables and figures of runs"),
    "verify": ("verify", "check a run's files against each other"),
    "search": ("search", "search for the best α"),
    "supervised": ("supervised.__main__", "run a supervised benchmark"),
}
"""Module below the package and help of each command."""


@entry_point
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns its exit code."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name not in COMMANDS:
        return fail(ConfigError(f"{name!r} is no command: choose from {', '.join(COMMANDS)}."))
    try:
        command = import_module(f"mtrl_fairgrad.{COMMANDS[name][0]}")
    except ConfigError as error:  # an extra is missing
        return fail(error)
    return command.main(rest)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mtrl-fairgrad COMMAND …",
            "",
            *lines,
            "",
            "mtrl-fairgrad COMMAND --help: its options",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
