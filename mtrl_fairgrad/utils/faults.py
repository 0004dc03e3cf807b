"""The error that ends a training run, and the warning about a slower form of computation."""

from __future__ import annotations


class TrainingFault(RuntimeError):
    """Training cannot continue; the message names the step or epoch and the cause."""


class FallbackWarning(RuntimeWarning):
    """A faster form of a computation failed and a slower one with the same results is used."""
