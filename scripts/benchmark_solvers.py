"""How long each method takes for its weights or direction, and how right it is, beside TorchJD in
the same run.

    python scripts/benchmark_solvers.py [--json FILE] [--tasks 2 10 40] [--problems N] [--device
    cpu]

Problems look like those of multi-task reinforcement learning: K gradients with a common part and
norms over three decades, as Gramians in float64. Timed is a method's call on the Gramian (on the
Jacobian for methods that need it, with P = 4K here; with a network's P they are bound by memory).
TorchJD's answer to the same Gramian is timed right after, so a noisy machine disturbs both.
`worst_angle_deg` is the largest angle between the direction `d` and the one the method's definition
asks for, computed independently and slowly (`solver_references.py`); TorchJD's beside it.
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
"""TorchJD draws its own numbers for these: its time can be compared, its answer cannot."""


class Row(NamedTuple):
    """What is compared: one of our methods with options, its definition, and TorchJD's counterpart."""

    method: str
    options: dict[str, Any]
    reference: Reference
    peer: Callable[[int], Callable[[Tensor, Tensor], Tensor]] | None
    """Tasks -> a function of Gramian and Jacobian that answers TorchJD's weights."""

    @property
    def label(self) -> str:
        """As the table calls it."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.options.items())])


def gramian_peer(
    name: str, *arguments: Any, **options: Any
) -> Callable[[int], Callable[[Tensor, Tensor], Tensor]]:
    """A TorchJD aggregator that works on Gramians."""

    def made(tasks: int) -> Callable[[Tensor, Tensor], Tensor]:
        from torchjd import aggregation

        aggregator = getattr(aggregation, name)(*arguments, **options)
        return lambda gramian, jacobian: aggregator.gramian_weighting(gramian)

    return made


def nash_peer(tasks: int) -> Callable[[Tensor, Tensor], Tensor]:
    from torchjd.aggregation import NashMTL

    return lambda gramian, jacobian: NashMTL(n_tasks=tasks).weighting(jacobian)


def graddrop_peer(tasks: int) -> Callable[[Tensor, Tensor], Tensor]:
    from torchjd.aggregation import GradDrop

    return lambda gramian, jacobian: GradDrop()(jacobian)


def rows() -> list[Row]:
    """All registered methods, FairGrad with each solver."""
    share = references.softmax
    weighted = references.weighted
    found = [
        *(
            Row(
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
        Row("nash_mtl", {}, lambda J: references.alpha_fair(J, 1.0), nash_peer),
        Row("mgda", {}, references.mgda, gramian_peer("MGDA")),
        Row("cagrad", {"c": 0.4}, references.cagrad, gramian_peer("CAGrad", 0.4)),
        Row("upgrad", {}, references.upgrad, gramian_peer("UPGrad")),
        Row("imtl_g", {}, references.imtl_g, gramian_peer("IMTLG")),
        Row("aligned_mtl", {}, references.aligned_mtl, gramian_peer("AlignedMTL")),
        Row("pcgrad", {}, references.pcgrad, gramian_peer("PCGrad")),
        Row(
            "gradvac", {}, references.pcgrad, gramian_peer("GradVac")
        ),  # whose target cosines are 0 on the first call
        Row("graddrop", {}, references.graddrop, graddrop_peer),
        Row("moco", {}, references.moco, None),
        Row("db_mtl", {}, references.db_mtl, None),
        Row("ls", {}, weighted(lambda x: x * 0 + 1), None),
        Row("stl", {}, weighted(lambda x: np.eye(len(x))[0]), None),
        Row("si", {}, weighted(lambda x: 1 / x), None),
        Row("rlw", {}, lambda J, noise: share(noise.double().numpy()) @ J, None),
        Row("dwa", {}, weighted(lambda x: x * 0 + 1), None),
        Row("uw", {}, weighted(lambda x: x * 0 + 0.5), None),
        Row("famo", {}, weighted(lambda x: 1 / x), None),
        Row("stch", {}, weighted(lambda x: 1 / x), None),
    ]
    missing = set(method_names()) - {row.method for row in found}
    if missing:
        raise SystemExit(f"no row for {', '.join(sorted(missing))}: add one to rows().")
    return found


def problem(tasks: int, seed: int) -> Tensor:
    """Gradients `[K, 4K]` with a common part, norms over three decades."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(tasks + 1, 4 * tasks, generator=generator, dtype=torch.float64)
    decades = 3 * (torch.rand(tasks, 1, generator=generator, dtype=torch.float64) - 0.5)
    return (normal[1:] + 0.5 * normal[:1]) * 10**decades


def call(
    method: Method, jacobian: Tensor, gramian: Tensor, losses: Tensor, noise: Tensor | None
) -> Tensor:
    """What a first call answers: weights, or a direction."""
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
    """Milliseconds of the second of two calls, once caches are warm, and its result; waits for the
    device.
    """
    place = torch.device(device)
    work(*arguments)
    wait(place)
    started = time.perf_counter()
    result = work(*arguments)
    wait(place)
    return 1e3 * (time.perf_counter() - started), result


def angle(found: Tensor, expected: Any) -> float:
    """Degrees between two directions."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (found.detach().cpu(), expected))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return math.degrees(2 * math.atan2(np.linalg.norm(a - b), np.linalg.norm(a + b)))


def measure(row: Row, tasks: int, problems: int, device: str) -> dict[str, Any]:
    """Times and errors of one method at one K."""
    peer = None if row.peer is None else row.peer(tasks)
    losses = torch.from_numpy(references.losses_of(tasks)).to(device)
    ours, theirs, errors, peer_errors = [], [], [], []
    for seed in range(problems):
        jacobian = problem(tasks, seed)
        here, gramian = jacobian.to(device), (jacobian @ jacobian.mT).to(device)
        method = make_method(row.method, **row.options).init(tasks, template={"all": here}).to(device)
        noise = method.draw([torch.Generator(device).manual_seed(seed)])
        elapsed, found = timed(call, method, here, gramian, losses, noise, device=device)
        direction = found if found.numel() != tasks else contract(found, {"all": here})["all"]
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
    """One line a row."""

    def cell(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    print(
        f"{'method':40}{'K':>4}{'ms':>9}{'TorchJD ms':>12}{'times as fast':>15}{'worst °':>11}{'TorchJD °':>11}"
    )
    for row in measured:
        peer = row["peer_median_ms"]
        ratio = None if peer is None else peer / row["median_ms"]
        print(
            f"{row['method']:40}{row['tasks']:4}{row['median_ms']:9.3f}{cell(peer, '.2f'):>12}{cell(ratio, '.1f'):>15}"
            f"{row['worst_angle_deg']:11.2g}{cell(row['peer_worst_angle_deg'], '.2g'):>11}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument(
        "--tasks", type=int, nargs="+", default=[2, 10, 40], help="numbers of tasks"
    )
    parser.add_argument("--problems", type=int, default=15, help="problems of each size")
    parser.add_argument(
        "--device", default="cpu", help="where ours runs; TorchJD's solvers run on the CPU"
    )
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")  # cvxpy's about TorchJD's problems
    torch.set_num_threads(1)
    with threadpool_limits(1):  # threads slow down matrices this small
        measured = [
            measure(row, k, chosen.problems, chosen.device) for row in rows() for k in chosen.tasks
        ]
    show(measured)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
