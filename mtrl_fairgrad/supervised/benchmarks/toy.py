"""The two-task toy problem of the paper's Figure 1: where each α ends on the Pareto front.

Two losses on the plane (appendix A.1), parabolas below the axis `x2 = 0` and logarithmic valleys
above it; the second loss is ten times as large. The formula that the paper prints differs from that
of the program that drew the figure, which has `+ tanh(−x2) + 2` in the second valley and
`0.1 (−x2 − 8)²` in both parabolas; `formula="code"` is that of the program. In the printed one, the
second coordinate is missing from the parabolas.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mtrl_fairgrad.utils.atomic_io import RunFolderError, write_atomic
from mtrl_fairgrad.utils.text_tables import csv_text, text_table
from mtrl_fairgrad.weighting import FairGrad, make_method

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
FORMULAS = ("code", "paper")
NEAR = 0.02
"""Distance from the Pareto set at which a trajectory ends."""
STATIONARY = 1e-3
"""Length of the shortest convex combination of unit gradients at which a trajectory ends.

Used where the Pareto set is not known.
"""
CSV = "toy.csv"
CHECK_EVERY = 100
"""Steps between checks of these conditions, and between recorded points."""


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


def losses(points: Tensor, formula: str = "code") -> Tensor:
    """Compute both losses `[..., 2]` at points `[..., 2]`; they may be negative."""
    x1, x2 = points.unbind(-1)
    bend = torch.tanh(-x2)

    def valley(distance: Tensor) -> Tensor:
        return distance.abs().clamp(min=5e-6).log() + 6

    upper, lower = torch.tanh(0.5 * x2).clamp(min=0), torch.tanh(-0.5 * x2).clamp(min=0)
    first = valley(0.5 * (-x1 - 7) - bend)
    second = valley(0.5 * (-x1 + 3) + (bend if formula == "code" else -bend) + 2)
    depth = 0.1 * (-(x2 if formula == "code" else x1) - 8).square()
    left, right = (((-x1 + centre).square() + depth) / 10 - 20 for centre in (7, -7))
    return torch.stack([0.1 * (first * upper + left * lower), second * upper + right * lower], -1)


def gradients(points: Tensor, formula: str = "code") -> Tensor:
    """Compute task gradients `[..., 2, 2]`: row i is that of loss i."""
    leaves = points.detach().requires_grad_()
    both = losses(leaves, formula)
    rows = [
        torch.autograd.grad(both[..., task].sum(), leaves, retain_graph=task == 0)[0]
        for task in range(2)
    ]
    return torch.stack(rows, -2)


def distance_from_front(points: Tensor) -> Tensor:
    """Compute the distance `[...]` of points `[..., 2]` from the Pareto set of `formula="code"`.

    The set is the curve `|x1| ≤ 7`, with x2 from −8.355 in the middle to −8.434 at both ends.
    """
    x1, x2 = points.unbind(-1)
    below = (x2 - (-8.355 - 0.079 * (x1 / 7).square())).abs()
    return torch.maximum(below, (x1.abs() - 7).clamp(min=0))


@dataclass(frozen=True)
class Trajectories:
    """The trajectories from all starts for one α."""

    alpha: float
    points: Tensor
    """`[T, 5, 2]`, every `CHECK_EVERY` steps; a trajectory that has arrived stays where it is."""
    arrived: Tensor
    """`[5]` bool, whether the Pareto front was reached."""


@torch.no_grad()
def descend(alpha: float, config: ToyConfig) -> Trajectories:
    """Follow FairGrad's directions with Adam from all starts at once.

    Each trajectory ends when it reaches the Pareto front.
    """
    points = torch.tensor(STARTS, dtype=torch.float64)
    optimizer = torch.optim.Adam([points], lr=config.learning_rate)
    method, shortest = FairGrad(alpha=alpha), make_method("mgda")
    arrived, recorded = torch.zeros(len(STARTS), dtype=torch.bool), [points.clone()]
    for step in range(1, config.steps + 1):
        with torch.enable_grad():
            rows = gradients(points, config.formula)
        products = rows @ rows.mT
        before = points.clone()
        points.grad = (method(products).weights.unsqueeze(-2) @ rows).squeeze(-2)
        optimizer.step()
        points.copy_(torch.where(arrived.unsqueeze(-1), before, points))
        if step % CHECK_EVERY == 0:
            recorded.append(points.clone())
            if config.formula == "code":
                arrived = arrived | (distance_from_front(points) <= NEAR)
            else:
                units = rows / rows.norm(dim=-1, keepdim=True)
                length = (
                    (shortest(units @ units.mT).weights.unsqueeze(-2) @ units)
                    .norm(dim=-1)
                    .squeeze(-1)
                )
                arrived = arrived | (length <= STATIONARY)
            if arrived.all():
                break
    return Trajectories(alpha, torch.stack(recorded), arrived)


def run(config: ToyConfig, folder: Path) -> str:
    """Descend for every α, write toy.csv and toy.png, and return a table of the ends."""
    trajectories = [descend(alpha, config) for alpha in config.alphas]
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[list[object]] = [["alpha", "start", "step", "x1", "x2", "loss1", "loss2"]]
    for one in trajectories:
        values = losses(one.points, config.formula)
        for index, (row, pair) in enumerate(zip(one.points.tolist(), values.tolist(), strict=True)):
            for start, (point, loss) in enumerate(zip(row, pair, strict=True)):
                lines.append([one.alpha, start, index * CHECK_EVERY, *point, *loss])
    write_atomic(folder / CSV, csv_text(lines).encode())
    draw(trajectories, config, folder / "toy.png")
    return _table(trajectories, config)


def _table(trajectories: Sequence[Trajectories], config: ToyConfig) -> str:
    rows = [["α", "start", "end", "losses", "on the Pareto front"]]
    for one in trajectories:
        ends = losses(one.points[-1], config.formula)
        for start, point, pair, on in zip(
            STARTS, one.points[-1].tolist(), ends.tolist(), one.arrived, strict=True
        ):
            cells = [f"{one.alpha:g}", f"({start[0]:g}, {start[1]:g})"]
            cells += [f"({point[0]:.3f}, {point[1]:.3f})", f"{pair[0]:.3f}, {pair[1]:.2f}"]
            rows.append([*cells, "yes" if on else "no"])
    return "\n".join(text_table(rows))


def is_toy_run(folder: Path) -> bool:
    """Return whether a folder holds the trajectories of this problem."""
    return (folder / CSV).is_file()


def print_ends(folders: Sequence[Path]) -> None:
    """Print where the trajectories of each folder end.

    Raises:
        RunFolderError: a folder holds none.
    """
    for folder in folders:
        if not is_toy_run(folder):
            raise RunFolderError(
                f"{folder} is not a run of the toy problem, but others are: report on one "
                "benchmark at a time."
            )
    names = ("alpha", "start", "x1", "x2", "loss1", "loss2")
    for folder in folders:
        with (folder / CSV).open(encoding="utf-8", newline="") as file:
            # The last row of each trajectory replaces those before it.
            ends = {(row["alpha"], row["start"]): row for row in csv.DictReader(file)}
        rows = [[f"{float(row[name]):.5g}" for name in names] for row in ends.values()]
        print("\n".join([*text_table([["α", *names[1:]], *rows]), ""]))
    print(
        "The paper has no table of the toy problem: these are the ends of the trajectories that "
        "its Figure 1 draws."
    )


def draw(trajectories: Sequence[Trajectories], config: ToyConfig, path: Path) -> None:
    """Draw the trajectories over the contours of both losses, a panel for each α.

    The Pareto front is drawn where it is known.
    """
    from matplotlib.figure import Figure

    axis = torch.linspace(-11, 11, 300, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    # Scaled, so that the contours of both tasks are visible.
    scaled = losses(grid, config.formula) * torch.tensor([10.0, 1.0])
    figure = Figure(figsize=(3.1 * len(trajectories) + 0.3, 3.9), layout="constrained")
    for one, panel in zip(
        trajectories,
        figure.subplots(1, len(trajectories), squeeze=False, sharey=True)[0],
        strict=True,
    ):
        for task, colour in enumerate(("tab:blue", "tab:green")):
            panel.contour(
                axis,
                axis,
                scaled[..., task],
                levels=12,
                colors=colour,
                linewidths=0.6,
                alpha=0.35,
                linestyles="solid",
            )
        if config.formula == "code":
            x1 = torch.linspace(-7, 7, 100, dtype=torch.float64)
            panel.plot(
                x1,
                -8.355 - 0.079 * (x1 / 7).square(),
                color="0.35",
                linewidth=4,
                alpha=0.6,
                label="Pareto front",
            )
        for path_points in one.points.unbind(1):
            panel.plot(*path_points.T, color="tab:orange", linewidth=1.4)
            panel.plot(*path_points[0], marker="o", markersize=5, color="black")
            panel.plot(*path_points[-1], marker="*", markersize=12, color="tab:red")
        panel.set_title(
            "LS (α = 0)" if one.alpha == 0 else f"FairGrad, α = {one.alpha:g}", fontsize=10
        )
        panel.set(xlim=(-11, 11), ylim=(-11, 11), xlabel="$x_1$", aspect="equal")
    figure.axes[0].set_ylabel("$x_2$")
    if config.formula == "code":
        figure.axes[0].legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=150)
