"""Errors of the commands: one sentence on standard error and exit code 2."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

from mtrl_fairgrad.utils.atomic_io import is_fault
from mtrl_fairgrad.utils.clean_text import clean
from mtrl_fairgrad.utils.entry_point import version_line
from mtrl_fairgrad.utils.validation import ConfigError, one_line


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `ConfigError` instead of printing its usage."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.add_argument(
            "--version", action="version", version=version_line(), help="print the version"
        )

    def print_help(self, file: Any = None) -> None:
        """Print the help; other than argparse's, it raises `BrokenPipeError`."""
        print(self.format_help(), end="", file=file or sys.stdout)

    def error(self, message: str) -> NoReturn:
        """Raise; called by argparse when the arguments are wrong."""
        raise ConfigError(f"{message}; {self.prog} --help shows the usage.")


def path_argument(text: str) -> Path:
    """Convert an argument to a path; an empty one would mean the current folder.

    Raises:
        ArgumentTypeError: the text is empty, contains NUL, or is too long for the system.
    """
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("an empty path is not allowed: give a file or folder")
    try:
        Path(text).exists()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    return Path(text)


def file_argument(text: str) -> Path:
    """Convert an argument to the path of a file to write, before any work.

    Raises:
        ArgumentTypeError: it is an existing folder, or no path.
    """
    path = path_argument(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: give a file, which may be in it")
    return path


def folder_argument(text: str) -> Path:
    """Convert an argument to the path of a folder to write into, before any work.

    Raises:
        ArgumentTypeError: it is an existing file, or no path.
    """
    path = path_argument(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file: give a folder")
    return path


def integer_argument(text: str) -> int:
    """Convert an argument to an integer; 1e6 is one.

    Raises:
        ArgumentTypeError: it is no integer.
    """
    try:
        number = float(text) if re.search(r"[.eE]", text) else int(text)
        if int(number) == number:
            return int(number)
    except (ValueError, OverflowError):  # not a number, infinite
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not an integer: give one, such as 100 or 1e6")


def command_line(command: str, *arguments: str | Path) -> str:
    """Return the shell command that runs `command` of this package, such as `report`.

    Args:
        command: name of the module.
        arguments: words; a `Path` that begins with `-` is written so that it is no option.
    """
    words = [
        f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
        for word in arguments
    ]
    return shlex.join(["python", "-m", f"mtrl_fairgrad.{command}", *words])


def override(key: str, value: str | Path) -> str:
    """Return `key=value` for Hydra, with the value quoted where its grammar needs that."""
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_][\w.-]*|[\w.+@%-]*/[\w./+@%-]*", text, re.ASCII)
    if plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return f"{key}={text}"
    text = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)  # no interpolation
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"{key}='{escaped}{chr(92) * trailing}'"


def fail(error: object, code: int | None = None) -> int:
    """Print an error as one line of limited length.

    Returns:
        exit code: `code` if it is given, else 1 after a fault of the disk and 2 after a mistake.
    """
    if code is None:
        cause = error.__cause__ if isinstance(error, BaseException) else None
        code = 1 if is_fault(error) or is_fault(cause) else 2
    with contextlib.suppress(OSError):  # the code says that it failed, where nothing can be printed
        print(f"error: {one_line(str(error))}", file=sys.stderr)
    return code


def fail_with_traceback(error: object) -> int:
    """Print an error whose text goes on with a traceback after an empty line; returns 1.

    The traceback is printed whole, line by line.
    """
    sentence, _, details = str(error).partition("\n\n")
    code = fail(sentence, code=1)
    with contextlib.suppress(OSError):
        for line in details.split("\n") if details else ():
            print(clean(line), file=sys.stderr)
    return code
