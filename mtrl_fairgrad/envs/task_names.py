"""Names of the tasks to train on: Meta-World's suites, a single task, or a subset.

Nothing is imported from Meta-World: a test compares the names with the installed package.
"""

from collections.abc import Sequence
from difflib import get_close_matches

MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)
"""The ten tasks of MT10, in Meta-World's order: the index of a task is its one-hot index."""

MT50 = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "hand-insert-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-open-v3",
    "faucet-close-v3",
    "hammer-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "pick-place-wall-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "plate-slide-v3",
    "plate-slide-side-v3",
    "plate-slide-back-v3",
    "plate-slide-back-side-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "soccer-v3",
    "stick-push-v3",
    "stick-pull-v3",
    "push-v3",
    "push-wall-v3",
    "push-back-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-open-v3",
    "window-close-v3",
)
"""All fifty tasks, in Meta-World's order."""

SUITES = {"mt10": MT10, "mt50": MT50, "mt1": MT50}
"""Suite -> its tasks; `mt1` means exactly one of them."""

_SLOWEST = ("assembly", "box-close", "stick-pull", "stick-push")
_SLOWER = (
    "basketball",
    "bin-picking",
    "coffee-pull",
    "coffee-push",
    "disassemble",
    "door-open",
    "door-unlock",
    "hammer",
    "hand-insert",
    "peg-insert-side",
    "peg-unplug-side",
    "pick-place",
    "pick-place-wall",
    "push",
    "push-back",
    "push-wall",
    "shelf-place",
    "soccer",
    "sweep",
    "sweep-into",
)
_COSTS = {
    f"{name}-v3": cost for names, cost in ((_SLOWEST, 1.7), (_SLOWER, 1.35)) for name in names
}


def step_cost(task: str) -> float:
    """Return the relative simulation time of a step of `task`; 1 for the fastest tasks.

    Measured with the environments of `envs.metaworld_fast`, whose time is mostly physics (contacts,
    bodies), with random and scripted actions. Exact to 0.2 within a group.
    """
    return _COSTS.get(task, 1.0)


def resolve_tasks(
    suite: str, tasks: Sequence[str] | None = None, task: str | None = None
) -> tuple[str, ...]:
    """Return the tasks to train on, in the order of the one-hot identity and of every `[.., K]`.

    Args:
        suite: `mt10`, `mt50` or `mt1`.
        tasks: subset of `mt10` or `mt50`, in this order; None: all.
        task: the one task of `mt1`.

    Raises:
        ValueError: unknown suite or task, or arguments that contradict each other.
    """
    if suite not in SUITES:
        raise ValueError(f"env={suite!r} is not known: choose {_hint(suite, tuple(SUITES))}.")
    if suite == "mt1":
        if tasks is not None:
            raise ValueError(
                f"env=mt1 trains one task, not env.tasks={list(tasks)}: give it as "
                f"env.task={next(iter(tasks), 'NAME')}, or use env=mt10."
            )
        if task is None:
            raise ValueError(
                "env=mt1 needs to know its task: add env.task=NAME, such as env.task=reach-v3."
            )
        return (check_task(task, MT50, "mt50"),)
    if task is not None:
        raise ValueError(
            f"env={suite} takes a list of tasks, not env.task={task}: use env.tasks=[{task}], or "
            "env=mt1."
        )
    if tasks is None:
        return SUITES[suite]
    if isinstance(tasks, str):
        raise ValueError(
            f"env.tasks={tasks!r} is one string where a list is needed: write env.tasks=[{tasks}]."
        )
    return check_tasks(tasks, SUITES[suite], suite)


def check_tasks(
    tasks: Sequence[str], allowed: Sequence[str] = MT50, suite: str = "mt50"
) -> tuple[str, ...]:
    """Return `tasks` as a tuple if non-empty, all in `allowed` and without duplicates."""
    if len(tasks) == 0:
        raise ValueError(
            "env.tasks=[] leaves nothing to train on: name at least one task, or leave env.tasks "
            "out for all of them."
        )
    checked = tuple(check_task(name, allowed, suite) for name in tasks)
    twice = [name for name in dict.fromkeys(checked) if checked.count(name) > 1]
    if twice:
        raise ValueError(
            f"env.tasks names {twice[0]!r} {checked.count(twice[0])} times: name each task once."
        )
    return checked


def check_task(name: str, allowed: Sequence[str], suite: str) -> str:
    """Return `name` if it is in `allowed`.

    Raises:
        ValueError: it is not; the message names the closest match or the suite that has it.
    """
    if name in allowed:
        return name
    if name in MT50:
        raise ValueError(
            f"task {name!r} is not in {suite}, which has {', '.join(allowed)}: use env=mt50 to "
            "train on it."
        )
    raise ValueError(
        f"task {name!r} is not one of Metaworld's: choose {_hint(str(name), allowed)}."
    )


def _hint(name: str, allowed: Sequence[str]) -> str:
    """List the allowed names, the closest match first."""
    close = get_close_matches(name, allowed, n=1) or get_close_matches(f"{name}-v3", allowed, n=1)
    every = f"one of {', '.join(allowed)}"
    return f"{close[0]} (closest), or {every}" if close else every
