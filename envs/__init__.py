"""mtrl-fairgrad: Metaworld behind Gymnasium's vector API, S seeds × K tasks of sub-environments in worker processes.

The name is imported by everything, so nothing heavy is loaded here: each name below is fetched at its first
use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.evaluation import Evaluation, all_goals, evaluate, evaluation_goals
    from envs.processes import WorkerError
    from envs.tasks import MT10, MT50, SUITES, resolve_tasks
    from envs.workers import MetaworldVectorEnv

__all__ = [
    "MT10",
    "MT50",
    "SUITES",
    "Evaluation",
    "MetaworldVectorEnv",
    "WorkerError",
    "all_goals",
    "evaluate",
    "evaluation_goals",
    "resolve_tasks",
]

_HOME = {
    **dict.fromkeys(("MT10", "MT50", "SUITES", "resolve_tasks"), "envs.tasks"),
    **dict.fromkeys(("Evaluation", "evaluate", "evaluation_goals", "all_goals"), "envs.evaluation"),
    "MetaworldVectorEnv": "envs.workers",
    "WorkerError": "envs.processes",
}


def __getattr__(name: str) -> Any:
    """Import `name` from its module (PEP 562); AttributeError for names that are not in `__all__`."""
    if name not in _HOME:
        raise AttributeError(f"module 'envs' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
