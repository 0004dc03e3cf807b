"""How the commands speak of a mistake: one sentence on standard error and exit code 2."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from mtrl_fairgrad.config import ConfigError


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence.

    Raises:
        ConfigError: in place of printing the usage.
    """

    def error(self, message: str) -> NoReturn:
        """Called by argparse when the arguments are wrong."""
        raise ConfigError(f"{message}; {self.prog} --help shows the usage.")


def fail(error: object) -> int:
    """Print the one sentence and return exit code 2."""
    print(f"error: {error}", file=sys.stderr)
    return 2
