"""The error that ends a training run, of the agent and of supervised benchmarks alike."""

from __future__ import annotations


class TrainingFault(RuntimeError):
    """Training cannot continue; the message names the step or epoch and the cause."""
