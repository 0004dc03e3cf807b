"""How every command ends when it is interrupted or its output fails; and `--version`.

`command | head` closes the pipe before everything is written. Programs in C are then ended silently
by SIGPIPE; Python raises `BrokenPipeError` instead, at any `print` or at exit. Output to a file on
a full disk raises another `OSError`, which names no file.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

Main = TypeVar("Main", bound=Callable[..., Any])

BROKEN_PIPE = 141
"""Exit code after the reader of standard output went away: 128 + SIGPIPE, as shells report it."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""
OUTPUT_FAULT = 1
"""Exit code if the output cannot be written for another reason."""


def entry_point(main: Main) -> Main:
    """Decorate a command's main function, which takes the command line or nothing.

    Without a traceback, it returns 141 after a broken pipe, 130, with one line, after Ctrl-C, and
    1, with one line, if the output cannot be written. Characters that the output's encoding lacks
    are written as escape sequences. `--version` prints the version of this project.
    """

    @functools.wraps(main)
    def run(*arguments: Any, **keywords: Any) -> Any:
        given = next(iter([*arguments, *keywords.values()]), None)
        accept_all_characters()
        try:
            if "--version" in (sys.argv[1:] if given is None else given):
                print(version_line())
                code = 0
            else:
                code = main(*arguments, **keywords)
        except SystemExit:
            if fault := _flush_fault():
                return output_failed(fault)
            raise
        except BrokenPipeError as error:
            return output_failed(error)
        except OSError as error:
            if fault := output_fault(error):
                return output_failed(fault)
            raise
        except KeyboardInterrupt:
            return interrupted()
        fault = _flush_fault()
        return code if fault is None else output_failed(fault)

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


def accept_all_characters() -> None:
    """Have standard output and error write what their encoding lacks as escape sequences."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # a stand-in, or closed
            cast(TextIOWrapper, stream).reconfigure(errors="backslashreplace")


def output_fault(error: OSError) -> OSError | None:
    """Return why standard output or standard error cannot be written; None if they can.

    Args:
        error: what was raised. Errors of the output name no file; as others may not, either, an
            empty line is written to find out.
    """
    if error.filename is not None:
        return None
    return _flush_fault(probe="\n")


def _flush_fault(probe: str = "") -> OSError | None:
    """Write `probe` and flush both streams; return the error that this raises, if any."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None if it was closed before the start
        try:
            if probe:
                stream.write(probe)
            stream.flush()
        except OSError as error:
            return error
    return None


def output_failed(fault: OSError, advice: str = "") -> int:
    """Say why the output ends, unless its reader went away; returns the exit code.

    Args:
        fault: the error of the output.
        advice: what to do then, in a clause.
    """
    discard_output()
    gone = isinstance(fault, BrokenPipeError)
    reason = "" if gone else f"error: the output cannot be written ({fault.strerror or fault})"
    if text := "; ".join(filter(None, (reason, advice))):
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr)
    return BROKEN_PIPE if gone else OUTPUT_FAULT


def discard_output() -> None:
    """Redirect standard output, which cannot be written, so that flushing it at exit is silent.

    Standard error is redirected, too, if it cannot be written.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # a stand-in may have no file
        os.dup2(null, sys.stdout.fileno())
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(null, sys.stderr.fileno())
    os.close(null)


def _except_hook(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        interrupted()
    elif isinstance(error, BrokenPipeError):
        output_failed(error)
    else:
        sys.__excepthook__(kind, error, traceback)
