"""Number of worker processes, and which sub-environments each one hosts."""

from collections.abc import Sequence

from mtrl_fairgrad.envs.task_names import step_cost
from mtrl_fairgrad.envs.workers.host import Slot
from mtrl_fairgrad.utils.cores import available_cores
from mtrl_fairgrad.utils.validation import MAX_WORKERS, check_integer


def balance_load(rows: Sequence[Slot], workers: int) -> list[list[Slot]]:
    """Split rows into shares of similar simulation time: costliest first, to the least loaded."""
    shares: list[list[Slot]] = [[] for _ in range(workers)]
    load = [0.0] * workers
    for row in sorted(rows, key=lambda row: -step_cost(row.task)):
        lightest = load.index(min(load))
        shares[lightest].append(row)
        load[lightest] += step_cost(row.task)
    return shares


def worker_count(workers: int | None, role: str) -> int:
    """Return `workers` if given, else the number of available cores.

    Training leaves one core to the learner; the result is at least 1.
    """
    if workers is None:
        cores = available_cores()
        return cores if role == "eval" else max(1, cores - 1)
    hint = "(0 simulates in this process)"
    return check_integer("workers", workers, at_most=MAX_WORKERS, hint=hint)
