"""How the commands speak of a mistake: one sentence on standard error and exit code 2."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from mtrl_fairgrad.utils.validation import ConfigError, one_line


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence.

    Raises:
        ConfigError: in place of printing the usage.
    """

    def error(self, message: str) -> NoReturn:
        """Called by argparse when the arguments are wrong."""
        raise ConfigError(f"{message}; {self.prog} --help shows the usage.")


def named(text: str) -> Path:
    """A path of the command line, as an argument's type; an empty one would be the current folder."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("an empty name is no file or folder: give one")
    return Path(text)


def fail(error: object, code: int = 2) -> int:
    """Print the one sentence, in one line that no value makes long or unreadable; returns the exit
    code.
    """
    print(f"error: {one_line(str(error))}", file=sys.stderr)
    return code
