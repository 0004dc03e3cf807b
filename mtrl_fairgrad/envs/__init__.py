"""mtrl-fairgrad: suites of tasks behind Gymnasium's vector API, S seeds × K tasks of simulators in
worker processes.

The name is imported by everything, so nothing heavy is loaded here: each name below is fetched at
its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrl_fairgrad.envs.evaluation import (
        Evaluation,
        Playing,
        all_goals,
        evaluate,
        evaluation_goals,
    )
    from mtrl_fairgrad.envs.gymnasium_probe import gymnasium_names
    from mtrl_fairgrad.envs.gymnasium_suite import GymnasiumSuite
    from mtrl_fairgrad.envs.metaworld import MetaworldSuite, MetaworldVectorEnv
    from mtrl_fairgrad.envs.suite import Suite
    from mtrl_fairgrad.envs.task_names import MT10, MT50, SUITES, resolve_tasks
    from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
    from mtrl_fairgrad.envs.workers.pool import WorkerError, WorkerLost

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
    "resolve_tasks",
]

_HOME = {
    **dict.fromkeys(("MT10", "MT50", "SUITES", "resolve_tasks"), "mtrl_fairgrad.envs.task_names"),
    **dict.fromkeys(
        ("Evaluation", "Playing", "evaluate", "evaluation_goals", "all_goals"),
        "mtrl_fairgrad.envs.evaluation",
    ),
    **dict.fromkeys(("MetaworldSuite", "MetaworldVectorEnv"), "mtrl_fairgrad.envs.metaworld"),
    "GymnasiumSuite": "mtrl_fairgrad.envs.gymnasium_suite",
    "Suite": "mtrl_fairgrad.envs.suite",
    "gymnasium_names": "mtrl_fairgrad.envs.gymnasium_probe",
    "TaskVectorEnv": "mtrl_fairgrad.envs.vector_env",
    **dict.fromkeys(("WorkerError", "WorkerLost"), "mtrl_fairgrad.envs.workers.pool"),
}


def __getattr__(name: str) -> Any:
    """Import `name` from its module (PEP 562); AttributeError for names that are not in `__all__`."""
    if name not in _HOME:
        raise AttributeError(f"module 'envs' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
