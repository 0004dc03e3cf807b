"""Numerical faults that are detected in every update of the agent, and the response to each."""

from __future__ import annotations

from dataclasses import dataclass

from mtrl_fairgrad.utils.validation import option

COUNT, LS, SKIP, STOP = "count", "ls", "skip", "stop"
CONDITIONS = {
    "critic": ("non_finite", "unsolved", "vanished_gradient", "exploding_value"),
    "actor": ("non_finite", "unsolved", "vanished_gradient", "dead_temperature"),
}
"""Network -> conditions that are checked in its update."""
CHECKS = tuple((network, condition) for network, names in CONDITIONS.items() for condition in names)
"""All pairs of network and condition, in the order in which faults are stored."""
SEED_CONDITIONS = ("unsolved",)
"""Conditions of a seed as a whole, not of one of its tasks."""


@dataclass
class GuardConfig:
    """Responses to numerical faults of an update; every fault is counted and listed in the report.

    count: do nothing else. skip: leave the seed's networks unchanged in this update. stop: freeze
    the seed's networks for good, keep evaluating them, and end the run when all seeds are frozen.
    ls: use equal weights in this update. Other seeds are never affected.
    """

    non_finite: str = option(STOP, "A loss or gradient is NaN or infinite.", choices=(STOP, SKIP))
    unsolved: str = option(
        COUNT,
        "FairGrad's or Nash-MTL's equation was not solved.",
        choices=(COUNT, LS, SKIP, STOP),
    )
    vanished_gradient: str = option(
        COUNT,
        "The norm of a task's gradient is below a millionth of the largest one.",
        choices=(COUNT, SKIP, STOP),
    )
    exploding_value: str = option(
        COUNT,
        "The magnitude of a task's mean Q in the batch exceeds largest_value.",
        choices=(COUNT, STOP),
    )
    dead_temperature: str = option(
        COUNT,
        "A task's entropy coefficient is below smallest_temperature.",
        choices=(COUNT, STOP),
    )
    largest_value: float = option(
        1e5,
        "Largest magnitude of Q; Meta-World's rewards allow 1,000 with agent.reward_scale=1.",
        above=0,
    )
    smallest_temperature: float = option(1e-6, "Lower bound of the entropy coefficient.", above=0)
