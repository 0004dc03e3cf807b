"""How every command ends when it is interrupted or its reader goes away; and `--version`.

`command | head` closes the pipe before everything is written. Programs in C are then ended silently
by SIGPIPE; Python raises `BrokenPipeError` instead, at any `print` or at exit.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

Main = TypeVar("Main", bound=Callable[..., Any])

BROKEN_PIPE = 141
"""Exit code after the reader of standard output went away: 128 + SIGPIPE, as shells report it."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""


def entry_point(main: Main) -> Main:
    """Decorate a command's main function, which takes the command line or nothing.

    Without a traceback, it returns 141 after a broken pipe and 130, with one line, after Ctrl-C.
    `--version` prints the version of this project.
    """

    @functools.wraps(main)
    def run(*arguments: Any, **keywords: Any) -> Any:
        given = next(iter([*arguments, *keywords.values()]), None)
        try:
            if "--version" in (sys.argv[1:] if given is None else given):
                print(version_line())
                code = 0
            else:
                code = main(*arguments, **keywords)
        except SystemExit:
            if _can_flush():
                raise
            return BROKEN_PIPE
        except BrokenPipeError:
            discard_output()
            return BROKEN_PIPE
        except KeyboardInterrupt:
            return interrupted()
        return code if _can_flush() else BROKEN_PIPE

    return cast(Main, run)


def version_line() -> str:
    """Return the line that `--version` prints."""
    package = import_module("mtrl_fairgrad")  # by name: utils may not depend on what it exports
    return f"mtrl-fairgrad {package.__version__}"


def is_command(name: str) -> bool:
    """Whether the module with this `__name__` was started by `python -m` or as `mtrl-…`."""
    return name == "__main__" or Path(sys.argv[0]).name.startswith("mtrl-")


def end_imports_quietly() -> None:
    """Report Ctrl-C and broken pipes in one line during the imports that precede `main`, too."""
    sys.excepthook = _except_hook


def interrupted(message: str = "stopped by Ctrl-C") -> int:
    """Print that the command was interrupted, and what that means; returns the exit code."""
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)
    return INTERRUPTED


def discard_output() -> None:
    """Redirect standard output, whose reader went away, so that flushing it at exit is silent.

    Standard error is redirected, too, if its reader went away.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # a stand-in may have no file
        os.dup2(null, sys.stdout.fileno())
    try:
        sys.stderr.flush()
    except BrokenPipeError:
        os.dup2(null, sys.stderr.fileno())
    os.close(null)


def _can_flush() -> bool:
    """Flush standard output; whether its reader is still there."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        return False
    return True


def _except_hook(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        interrupted()
    elif issubclass(kind, BrokenPipeError):
        discard_output()
    else:
        sys.__excepthook__(kind, error, traceback)
