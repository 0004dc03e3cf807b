"""mtrl-fairgrad: suites of tasks behind Gymnasium's vector API, S seeds × K tasks of simulators in worker processes.

The name is imported by everything, so nothing heavy is loaded here: each name below is fetched at its first
use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.episodes import Suite
    from envs.evaluation import Evaluation, Playing, all_goals, evaluate, evaluation_goals
    from envs.gymnasium_tasks import GymnasiumSuite, gymnasium_suite
    from envs.inspection import gymnasium_names
    from envs.metaworld import MetaworldSuite, MetaworldVectorEnv
    from envs.processes import WorkerError, WorkerLost
    from envs.tasks import MT10, MT50, SUITES, resolve_tasks
    from envs.workers import TaskVectorEnv

__all__ = [
    "MT10",
    "MT50",
    "SUITES",
    "Evaluation",
    "GymnasiumSuite",
    "MetaworldSuite",
    "MetaworldVectorEnv",
    "Playing",
    "Suite",
    "TaskVectorEnv",
    "WorkerError",
    "WorkerLost",
    "all_goals",
    "evaluate",
    "evaluation_goals",
    "gymnasium_names",
    "gymnasium_suite",
    "resolve_tasks",
]

_HOME = {
    **dict.fromkeys(("MT10", "MT50", "SUITES", "resolve_tasks"), "envs.tasks"),
    **dict.fromkeys(("Evaluation", "Playing", "evaluate", "evaluation_goals", "all_goals"), "envs.evaluation"),
    **dict.fromkeys(("MetaworldSuite", "MetaworldVectorEnv"), "envs.metaworld"),
    **dict.fromkeys(("GymnasiumSuite", "gymnasium_suite"), "envs.gymnasium_tasks"),
    "Suite": "envs.episodes",
    "gymnasium_names": "envs.inspection",
    "TaskVectorEnv": "envs.workers",
    **dict.fromkeys(("WorkerError", "WorkerLost"), "envs.processes"),
}


def __getattr__(name: str) -> Any:
    """Import `name` from its module (PEP 562); AttributeError for names that are not in `__all__`."""
    if name not in _HOME:
        raise AttributeError(f"module 'envs' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
