"""What is watched in every update of the agent, what is done about it, and its part of the
configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtrl_fairgrad.utils.validation import one_of, positive

COUNT, LS, SKIP, STOP = "count", "ls", "skip", "stop"
ANSWERS = {
    "non_finite": (STOP, SKIP),
    "unsolved": (COUNT, LS, SKIP, STOP),
    "vanished_gradient": (COUNT, SKIP, STOP),
    "exploding_value": (COUNT, STOP),
    "dead_temperature": (COUNT, STOP),
}
"""What may be answered to each condition, the default first."""
CONDITIONS = {
    "critic": ("non_finite", "unsolved", "vanished_gradient", "exploding_value"),
    "actor": ("non_finite", "unsolved", "vanished_gradient", "dead_temperature"),
}
"""What is looked for in the update of each network."""
ALL = tuple((network, condition) for network, found in CONDITIONS.items() for condition in found)
OF_SEEDS = ("unsolved",)
"""What belongs to a seed and not to one of its tasks."""


@dataclass
class GuardConfig:
    """Answers to what may go wrong in an update. Whatever the answer, it is counted, said once, and
    in the report.

    count: nothing more. skip: the seed's networks stay as they are in this update. stop: they stay
    so for good, its evaluations show what it has learnt by then, and the run ends early when no
    seed is left. ls: equal weights in this update. Other seeds are never touched.
    """

    non_finite: str = STOP
    """A loss or gradient is no number: stop or skip."""
    unsolved: str = COUNT
    """FairGrad's or Nash-MTL's equation was not solved: count, ls, skip or stop."""
    vanished_gradient: str = COUNT
    """A task's gradient is shorter than a millionth of the longest one: count, skip or stop."""
    exploding_value: str = COUNT
    """The mean Q of a task's batch is beyond largest_value: count or stop."""
    dead_temperature: str = COUNT
    """A task's entropy coefficient is below smallest_temperature: count or stop."""
    largest_value: float = 1e5
    """Of Q, above or below 0; Meta-World's rewards allow 1,000 with agent.reward_scale=1."""
    smallest_temperature: float = 1e-6
    """Of an entropy coefficient that still does something."""


def check_guard(guard: GuardConfig) -> None:
    """Refuse answers that there are not.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    for condition, allowed in ANSWERS.items():
        one_of(f"guard.{condition}", str(getattr(guard, condition)), allowed)
    for key in ("largest_value", "smallest_temperature"):
        positive(f"guard.{key}", getattr(guard, key))
