"""The toy problem of the paper's Figure 1: where FairGrad's trajectories end, for several α.

A trajectory ends on the Pareto front, or when it stalls: the valleys of the losses are so steep
that Adam's steps jump across the floor and hardly advance along it. LS stalls so from (9, 9).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from mtrl_fairgrad.supervised.benchmarks.toy_problem import (
    FORMULAS,
    STARTS,
    distance_from_front,
    gradients,
)
from mtrl_fairgrad.weighting import FairGrad, make_method

NEAR = 0.02
"""Distance from the Pareto set at which a trajectory ends."""
STATIONARY = 1e-3
"""Length of the shortest convex combination of unit gradients at which a trajectory ends.

Used where the Pareto set is not known.
"""
CHECK_EVERY = 100
"""Steps between checks of these conditions, and between recorded points."""
REACH = 20.0
"""Distance per coordinate that Adam can move during the window of the test for stalling.

Adam moves by about the learning rate in a step, if the signs of gradients agree.
"""
STALLED_SHARE = 0.01
"""A trajectory stalls if it moves less than this share of `REACH` in that window.

LS from (9, −1) lingers near x2 = 0 for 12,000 steps at the learning rate of the figure, and then
arrives: a window of half the length would nearly end it.
"""

ARRIVED, STALLED, DIVERGED, UNFINISHED = "arrived", "stalled", "diverged", "out of steps"
OUTCOMES = {
    ARRIVED: "the Pareto front was reached",
    STALLED: f"moved less than {STALLED_SHARE:.0%} of what the steps allow: it cannot arrive",
    DIVERGED: "a point, loss or gradient was not finite",
    UNFINISHED: "neither, within benchmark.steps",
}
"""How a trajectory ends → what it means."""


@dataclass(frozen=True)
class ToyConfig:
    """Options of `benchmark=toy`.

    Raises:
        ValueError: a value that is not allowed.
    """

    formula: str = "code"
    alphas: Sequence[float] = (0.0, 1.0, 2.0, 10.0)
    steps: int = 50_000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.formula not in FORMULAS:
            raise ValueError(f"formula={self.formula} is unknown; allowed: {', '.join(FORMULAS)}.")
        for alpha in self.alphas:
            FairGrad(alpha=alpha)
        if self.steps < 1 or not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(
                f"steps={self.steps}, learning_rate={self.learning_rate} are not allowed: give "
                "positive numbers."
            )


@dataclass(frozen=True)
class Trajectories:
    """The trajectories from all starts for one α."""

    alpha: float
    points: Tensor
    """`[T, 5, 2]`, every `CHECK_EVERY` steps; a trajectory that has ended stays where it is."""
    steps: tuple[int, ...]
    """Steps from each start to its end."""
    outcomes: tuple[str, ...]
    """How each trajectory ends, a key of `OUTCOMES`."""

    def path(self, start: int) -> Tensor:
        """Return the points `[t, 2]` from a start to its end, the last of them the end."""
        return self.points[: 1 + math.ceil(self.steps[start] / CHECK_EVERY), start]


def descend(alpha: float, config: ToyConfig, progress: bool = False) -> Trajectories:
    """Follow FairGrad's directions with Adam from all starts at once, until each has ended.

    Args:
        alpha: fairness.
        config: formula, largest number of steps, learning rate.
        progress: whether to show a progress bar, on a terminal only, and a line at the end.
    """
    descent, started, step = _Descent(alpha, config), time.perf_counter(), 0
    # None: no bar in a file, which would get a line for each of its states.
    with tqdm(
        total=config.steps, desc=f"α={alpha:g}", leave=False, disable=None if progress else True
    ) as bar:
        while step < config.steps and not descent.all_ended():
            number = min(CHECK_EVERY, config.steps - step)
            descent.advance(number)
            step += number
            bar.set_postfix(arrived=f"{descent.count(ARRIVED)}/{len(STARTS)}", refresh=False)
            bar.update(number)
    result = descent.result()
    if progress:
        counts = [f"{result.outcomes.count(name)} {name}" for name in OUTCOMES]
        told = ", ".join(count for count in counts if not count.startswith("0 "))
        seconds = time.perf_counter() - started
        print(f"α={alpha:g}: {told}; {step} steps, {seconds:.0f} s", file=sys.stderr, flush=True)
    return result


class _Descent:
    """The state of trajectories from all starts."""

    def __init__(self, alpha: float, config: ToyConfig) -> None:
        self.alpha, self.config = alpha, config
        self.points = torch.tensor(STARTS, dtype=torch.float64)
        self.optimizer = torch.optim.Adam([self.points], lr=config.learning_rate)
        self.method, self.shortest = FairGrad(alpha=alpha), make_method("mgda")
        self.step = 0
        self.recorded = [self.points.clone()]
        self.ends: list[tuple[int, str] | None] = [None] * len(STARTS)
        self.records_in_window = max(10, math.ceil(REACH / config.learning_rate / CHECK_EVERY))

    def ended(self) -> Tensor:
        return torch.tensor([end is not None for end in self.ends])

    def all_ended(self) -> bool:
        return None not in self.ends

    def count(self, outcome: str) -> int:
        return sum(end is not None and end[1] == outcome for end in self.ends)

    @torch.no_grad()
    def advance(self, steps: int) -> None:
        """Make some steps, record the points, and end what has arrived or stalled."""
        rows = self._step()
        for _ in range(steps - 1):
            if self.all_ended():
                break
            rows = self._step()
        self.recorded.append(self.points.clone())
        self._end(self._arrived(rows), ARRIVED)
        self._end(self._stalled(), STALLED)

    def _step(self) -> Tensor:
        """Make a step; returns the gradients `[5, 2, 2]` before it, of which all are finite."""
        before = self.points.clone()
        with torch.enable_grad():
            rows = gradients(self.points, self.config.formula)
        finite = (rows @ rows.mT).flatten(1).isfinite().all(-1)
        self._end(~finite, DIVERGED)
        rows = torch.where(finite[:, None, None], rows, torch.eye(2, dtype=rows.dtype))
        weights = self.method(rows @ rows.mT).weights
        self.points.grad = (weights.unsqueeze(-2) @ rows).squeeze(-2)
        self.optimizer.step()
        self.step += 1
        self._end(~self.points.isfinite().all(-1), DIVERGED)
        self.points.copy_(torch.where(self.ended().unsqueeze(-1), before, self.points))
        return rows

    def _end(self, which: Tensor, outcome: str) -> None:
        for start, ends in enumerate(which.tolist()):
            if ends and self.ends[start] is None:
                self.ends[start] = (self.step, outcome)

    def _arrived(self, rows: Tensor) -> Tensor:
        if self.config.formula == "code":
            return distance_from_front(self.points) <= NEAR
        units = torch.nn.functional.normalize(rows, dim=-1, eps=1e-300)
        weights = self.shortest(units @ units.mT).weights
        return (weights.unsqueeze(-2) @ units).norm(dim=-1).squeeze(-1) <= STATIONARY

    def _stalled(self) -> Tensor:
        if len(self.recorded) <= self.records_in_window:
            return torch.zeros(len(STARTS), dtype=torch.bool)
        moved = (self.points - self.recorded[-1 - self.records_in_window]).norm(dim=-1)
        reach = self.config.learning_rate * self.records_in_window * CHECK_EVERY
        return moved < STALLED_SHARE * reach

    def result(self) -> Trajectories:
        ends = [(self.step, UNFINISHED) if end is None else end for end in self.ends]
        steps, outcomes = zip(*ends, strict=True)
        return Trajectories(self.alpha, torch.stack(self.recorded), steps, outcomes)


def run(
    config: ToyConfig, folder: Path, progress: bool = True, overrides: Sequence[str] = ()
) -> list[Trajectories]:
    """Descend for every α and write toy.csv, manifest.json and toy.png."""
    from mtrl_fairgrad.supervised.benchmarks.toy_figure import draw
    from mtrl_fairgrad.supervised.benchmarks.toy_files import FIGURE, write

    trajectories = [descend(alpha, config, progress) for alpha in config.alphas]
    write(trajectories, asdict(config), folder, overrides)
    draw(trajectories, config.formula, folder / FIGURE)
    return trajectories
