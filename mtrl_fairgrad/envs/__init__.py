"""Suites of tasks behind Gymnasium's vector API: S seeds × K tasks, simulated in worker processes.

Public names are imported on first use, so that task names can be checked without loading NumPy,
Gymnasium or a simulator. Code of this package imports from the defining modules.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "evaluation": (
        "EvaluationResult",
        "EvaluationRollout",
        "all_goals",
        "evaluate",
        "evaluation_goals",
    ),
    "gymnasium_probe": ("gymnasium_names",),
    "gymnasium_suite": ("GymnasiumSuite",),
    "metaworld": ("MetaworldSuite", "MetaworldVectorEnv"),
    "standard_vector_env": ("StandardVectorEnv", "make_vec"),
    "suite": ("SubEnvironment", "Suite"),
    "task_names": ("MT10", "MT50", "SUITES", "resolve_tasks"),
    "vector_env": ("TaskVectorEnv",),
    "workers.pool": ("WorkerError", "WorkerLost"),
}
"""Module -> its public names."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    for module, names in _EXPORTS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for names in _EXPORTS.values() for name in names)})
