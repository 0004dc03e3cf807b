"""Measure the speed and accuracy of each method's weights or direction, next to TorchJD.

    python scripts/benchmark_solvers.py [--json FILE] [--tasks 2 10 40] [--problems N]

Problems resemble those of multi-task reinforcement learning: K gradients with a common part and
norms over three decades, as Gramians in float64. A method is timed on the Gramian, or on the
Jacobian if it needs that (P = 4K here; with a network's P such methods are limited by memory
bandwidth). TorchJD is timed on the same problem right after, so that load on the machine affects
both. `worst_angle_deg` is the largest angle between the computed direction and the one that the
method defines, computed independently and slowly in `solver_references.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import solver_references as references
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarking.timing import wait

from mtrl_fairgrad.utils.entry_point import entry_point
from mtrl_fairgrad.weighting import (
    GramianWeighting,
    LossWeighting,
    Method,
    contract,
    make_method,
    method_names,
)

Reference = Callable[..., Any]


RANDOM = ("pcgrad", "gradvac", "graddrop")
"""TorchJD draws its own random numbers for these: only its time can be compared."""


class Comparison(NamedTuple):
    """One of our methods with options, its reference, and its counterpart in TorchJD."""

    method: str
    options: dict[str, Any]
    reference: Reference
    peer: Callable[[int], Callable[[Tensor, Tensor], Tensor]] | None
    """Number of tasks -> a function from Gramian and Jacobian to TorchJD's weights."""

    @property
    def label(self) -> str:
        """Name in the table."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.options.items())])


def gramian_peer(
    name: str, *arguments: Any, **options: Any
) -> Callable[[int], Callable[[Tensor, Tensor], Tensor]]:
    """Return the counterpart of a TorchJD aggregator on Gramians."""

    def make(tasks: int) -> Callable[[Tensor, Tensor], Tensor]:
        from torchjd import aggregation

        aggregator = getattr(aggregation, name)(*arguments, **options)
        return lambda gramian, jacobian: aggregator.gramian_weighting(gramian)

    return make


def nash_peer(tasks: int) -> Callable[[Tensor, Tensor], Tensor]:
    from torchjd.aggregation import NashMTL

    return lambda gramian, jacobian: NashMTL(n_tasks=tasks).weighting(jacobian)


def graddrop_peer(tasks: int) -> Callable[[Tensor, Tensor], Tensor]:
    from torchjd.aggregation import GradDrop

    return lambda gramian, jacobian: GradDrop()(jacobian)


def rows() -> list[Comparison]:
    """Return the comparisons of all built-in methods, FairGrad with each solver."""
    share = references.softmax
    weighted = references.weighted
    comparisons = [
        *(
            Comparison(
                "fairgrad",
                {"alpha": 2.0, "solver": solver},
                lambda J: references.alpha_fair(J, 2.0),
                peer,
            )
            for solver, peer in (
                ("newton", gramian_peer("FairGrad", 2.0)),
                ("sgd", None),
                ("least_squares", gramian_peer("FairGrad", 2.0)),
            )
        ),
        Comparison("nash_mtl", {}, lambda J: references.alpha_fair(J, 1.0), nash_peer),
        Comparison("mgda", {}, references.mgda, gramian_peer("MGDA")),
        Comparison("cagrad", {"c": 0.4}, references.cagrad, gramian_peer("CAGrad", 0.4)),
        Comparison("upgrad", {}, references.upgrad, gramian_peer("UPGrad")),
        Comparison("imtl_g", {}, references.imtl_g, gramian_peer("IMTLG")),
        Comparison("aligned_mtl", {}, references.aligned_mtl, gramian_peer("AlignedMTL")),
        Comparison("pcgrad", {}, references.pcgrad, gramian_peer("PCGrad")),
        # In the first call, GradVac's target cosines are 0, where it is PCGrad.
        Comparison("gradvac", {}, references.pcgrad, gramian_peer("GradVac")),
        Comparison("graddrop", {}, references.graddrop, graddrop_peer),
        Comparison("moco", {}, references.moco, None),
        Comparison("db_mtl", {}, references.db_mtl, None),
        Comparison("ls", {}, weighted(lambda x: x * 0 + 1), None),
        Comparison("stl", {}, weighted(lambda x: np.eye(len(x))[0]), None),
        Comparison("si", {}, weighted(lambda x: 1 / x), None),
        Comparison("rlw", {}, lambda J, noise: share(noise.double().numpy()) @ J, None),
        Comparison("dwa", {}, weighted(lambda x: x * 0 + 1), None),
        Comparison("uw", {}, weighted(lambda x: x * 0 + 0.5), None),
        Comparison("famo", {}, weighted(lambda x: 1 / x), None),
        Comparison("stch", {}, weighted(lambda x: 1 / x), None),
    ]
    missing = set(method_names()) - {row.method for row in comparisons}
    if missing:
        raise SystemExit(f"no row for {', '.join(sorted(missing))}: add one to rows().")
    return comparisons


def problem(tasks: int, seed: int) -> Tensor:
    """Draw gradients `[K, 4K]` with a common part and norms over three decades."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(tasks + 1, 4 * tasks, generator=generator, dtype=torch.float64)
    decades = 3 * (torch.rand(tasks, 1, generator=generator, dtype=torch.float64) - 0.5)
    return (normal[1:] + 0.5 * normal[:1]) * 10**decades


def call(
    method: Method, jacobian: Tensor, gramian: Tensor, losses: Tensor, noise: Tensor | None
) -> Tensor:
    """Return the weights or the direction of a first call."""
    method.reset()
    optional = method.accepted(losses=losses, noise=noise)
    if isinstance(method, LossWeighting):
        return method(losses, **optional).weights
    if isinstance(method, GramianWeighting):
        return method(gramian, **optional).weights
    return method({"all": jacobian}, **optional).direction["all"]


def timed(
    work: Callable[..., Tensor], *arguments: Any, device: str = "cpu"
) -> tuple[float, Tensor]:
    """Return the milliseconds and the result of the second of two calls, when caches are warm.

    Synchronises with the device.
    """
    place = torch.device(device)
    work(*arguments)
    wait(place)
    started = time.perf_counter()
    result = work(*arguments)
    wait(place)
    return 1e3 * (time.perf_counter() - started), result


def angle(actual: Tensor, expected: Any) -> float:
    """Return the angle between two directions in degrees."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (actual.detach().cpu(), expected))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return math.degrees(2 * math.atan2(np.linalg.norm(a - b), np.linalg.norm(a + b)))


def measure(row: Comparison, tasks: int, problems: int, device: str) -> dict[str, Any]:
    """Measure time and error of one method for one number of tasks."""
    peer = None if row.peer is None else row.peer(tasks)
    losses = torch.from_numpy(references.losses_of(tasks)).to(device)
    ours, theirs, errors, peer_errors = [], [], [], []
    for seed in range(problems):
        jacobian = problem(tasks, seed)
        here, gramian = jacobian.to(device), (jacobian @ jacobian.mT).to(device)
        method = make_method(row.method, **row.options).init(tasks, template={"all": here})
        method = method.to(device)
        noise = method.draw([torch.Generator(device).manual_seed(seed)])
        elapsed, answer = timed(call, method, here, gramian, losses, noise, device=device)
        direction = answer if answer.numel() != tasks else contract(answer, {"all": here})["all"]
        drawn = () if noise is None else (noise.cpu(),)
        expected = row.reference(jacobian.numpy(), *drawn)
        ours.append(elapsed)
        errors.append(angle(direction, expected))
        if peer is not None:
            elapsed, weights = timed(peer, gramian.cpu(), jacobian)
            theirs.append(elapsed)
            if row.method not in RANDOM:
                peer_errors.append(angle(weights @ jacobian, expected))
    return {
        "method": row.label,
        "tasks": tasks,
        "median_ms": statistics.median(ours),
        "peer_median_ms": statistics.median(theirs) if theirs else None,
        "worst_angle_deg": max(errors),
        "peer_worst_angle_deg": max(peer_errors) if peer_errors else None,
    }


def show(measured: list[dict[str, Any]]) -> None:
    """Print a line for each comparison."""

    def cell(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    print(
        f"{'method':40}{'K':>4}{'ms':>9}{'TorchJD ms':>12}{'times as fast':>15}"
        f"{'worst °':>11}{'TorchJD °':>11}"
    )
    for row in measured:
        peer = row["peer_median_ms"]
        ratio = None if peer is None else peer / row["median_ms"]
        print(
            f"{row['method']:40}{row['tasks']:4}{row['median_ms']:9.3f}"
            f"{cell(peer, '.2f'):>12}{cell(ratio, '.1f'):>15}"
            f"{row['worst_angle_deg']:11.2g}{cell(row['peer_worst_angle_deg'], '.2g'):>11}",
            flush=True,
        )


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument(
        "--tasks", type=int, nargs="+", default=[2, 10, 40], help="numbers of tasks"
    )
    parser.add_argument("--problems", type=int, default=15, help="problems of each size")
    parser.add_argument(
        "--device", default="cpu", help="device of our methods; TorchJD's solvers run on the CPU"
    )
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")  # cvxpy warns about TorchJD's problems
    torch.set_num_threads(1)
    with threadpool_limits(1):  # more threads slow down matrices this small
        measured = [
            measure(row, k, chosen.problems, chosen.device) for row in rows() for k in chosen.tasks
        ]
    show(measured)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
