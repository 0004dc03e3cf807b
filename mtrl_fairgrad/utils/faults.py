"""Errors and warnings of a computation, and how they are told in a sentence."""

from __future__ import annotations


class TrainingFault(RuntimeError):
    """Training cannot continue; the message names the step or epoch and the cause."""


class FallbackWarning(RuntimeWarning):
    """A faster form of a computation failed and a slower one with the same results is used."""


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message, without its full stop."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
