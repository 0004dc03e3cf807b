"""Number of worker processes, and which sub-environments each one hosts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.envs.task_names import step_cost
from mtrl_fairgrad.envs.workers.host import Slot
from mtrl_fairgrad.utils.cores import available_cores
from mtrl_fairgrad.utils.validation import MAX_WORKERS, check_integer

WORTH = 1.05
"""Ratio of the longest share to what it could be, from which sub-environments are moved."""
ENOUGH = 1.01
"""Ratio of the longest share to the mean one, up to which shares are equal."""


def balance_load(rows: Sequence[Slot], workers: int) -> list[list[Slot]]:
    """Split rows into shares of similar simulation time: costliest first, to the least loaded.

    The halves one after the other, so that each is balanced, and the second evens out the first.
    """
    shares: list[list[Slot]] = [[] for _ in range(workers)]
    load = [0.0] * workers
    for row in sorted(rows, key=lambda row: (row.half, -step_cost(row.task))):
        lightest = load.index(min(load))
        shares[lightest].append(row)
        load[lightest] += step_cost(row.task)
    return shares


def rebalance(shares: list[list[Slot]], seconds: NDArray[np.float64]) -> list[list[Slot]]:
    """Return shares of more similar simulation time, `shares` itself unless that pays.

    Between the slowest and the fastest worker, a sub-environment is moved, or two of the same half
    are exchanged, as long as this helps. Few are moved, since each is built anew.

    Args:
        shares: sub-environments of each worker.
        seconds: measured time of a step [N]; 0 where unknown.
    """
    rows = [row for share in shares for row in share]
    if not all(seconds[row.index] > 0 for row in rows):
        return shares
    better = [list(share) for share in shares]
    load = [_load(share, seconds) for share in better]
    while max(load) > ENOUGH * sum(load) / len(load):
        slow, fast = load.index(max(load)), load.index(min(load))
        change = _best_change(better[slow], better[fast], seconds, load[slow] - load[fast])
        if change is None:
            break
        for row, giver, taker in ((change[0], slow, fast), (change[1], fast, slow)):
            if row is not None:
                better[giver].remove(row)
                better[taker].append(row)
        load[slow], load[fast] = _load(better[slow], seconds), _load(better[fast], seconds)
    pays = max(_load(share, seconds) for share in shares) > WORTH * max(load)
    return better if pays else shares


def _best_change(
    slow: list[Slot], fast: list[Slot], seconds: NDArray[np.float64], difference: float
) -> tuple[Slot, Slot | None] | None:
    """Return what to give and what to take in return; None if nothing helps by a fifth.

    What shifts half of the `difference` between two workers makes them equal.
    """
    best, found = 0.4 * difference, None
    for given in slow:
        others = [row for row in fast if row.half == given.half]
        for taken in others if len(slow) == 1 else [None, *others]:
            shift = seconds[given.index] - (0.0 if taken is None else seconds[taken.index])
            if abs(shift - difference / 2) < best:
                best, found = abs(shift - difference / 2), (given, taken)
    return found


def _load(share: list[Slot], seconds: NDArray[np.float64]) -> float:
    return float(sum(seconds[row.index] for row in share))


def worker_count(workers: int | None, role: str) -> int:
    """Return `workers` if given, else the number of available cores.

    Training leaves one core to the learner; the result is at least 1.
    """
    if workers is None:
        cores = available_cores()
        return cores if role == "eval" else max(1, cores - 1)
    hint = "(0 simulates in this process)"
    return check_integer("workers", workers, at_most=MAX_WORKERS, hint=hint)
