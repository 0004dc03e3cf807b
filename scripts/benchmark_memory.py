"""Measure memory and time of a training step on CelebA's network: 40 tasks, random images.

    python scripts/benchmark_memory.py [--json FILE] [--rounds N] [--device cpu] [--batch 8]

Rows are `ls`, the reference; `fairgrad:N`, FairGrad with N tasks a backward pass (1 is a loop over
tasks); `fairgrad`, where the library chooses N; `graddrop`, which needs the whole Jacobian. Each
row runs in a process of its own. The peak is that of resident memory on a CPU (on Linux; elsewhere
from `getrusage`), and of the memory allocated by PyTorch on a GPU. The time is that of the fastest
step: wall-clock on a GPU, processor time of all threads on a CPU, which depends less on other
processes. Rounds interleave the rows; the table shows the median peak.

The peak of the loop must not exceed that of `ls` by more than 1.25 times the Jacobian of K·P·4
bytes; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarking.timing import wait

from mtrl_fairgrad import backward, jacobian_like, make_method
from mtrl_fairgrad.supervised.benchmarks.celeba import CelebA
from mtrl_fairgrad.utils.entry_point import entry_point

LIMIT = 1.25
LS, LOOP = "ls", "fairgrad:1"
OTHERS = ["fairgrad", "fairgrad:8", "fairgrad:40", "graddrop"]
STATUS = Path("/proc/self/status")


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():  # on Linux getrusage starts at the parent's peak
        return next(
            1024 * int(line.split()[1])
            for line in STATUS.read_text().splitlines()
            if line[:6] == "VmHWM:"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def measure(
    case: str, device: torch.device, batch_size: int, width: int, steps: int
) -> dict[str, Any]:
    """Train for a few steps of Adam and measure them.

    Returns:
        The peak, the seconds of the fastest step after the first, and the size of the Jacobian.
    """
    name, _, tasks_per_pass = case.partition(":")
    torch.manual_seed(0)
    benchmark = CelebA(width=width)
    model = benchmark.model().to(device)
    shared, own, tasks = (
        list(model.shared_parameters()),
        list(model.own_parameters()),
        len(benchmark.tasks),
    )
    method = make_method(name).init(tasks, template=jacobian_like(shared, tasks)).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(batch_size, 3, 64, 64), torch.rand(batch_size, tasks).round()
    batch = images.to(device), labels.to(device)
    seconds: list[float] = []
    now = time.perf_counter if device.type == "cuda" else time.process_time
    for _ in range(steps):
        wait(device)
        started = now()
        losses = benchmark.losses(model(batch[0]), batch)
        optimizer.zero_grad()
        per_pass = int(tasks_per_pass) if tasks_per_pass else None
        backward(losses, method, shared=shared, own=own, noise=generator, tasks_per_pass=per_pass)
        optimizer.step()
        wait(device)
        seconds.append(now() - started)
    return {
        "case": case,
        "peak_bytes": peak_bytes(device),
        "step_seconds": min(seconds[1:]),
        "jacobian_bytes": tasks * sum(parameter.numel() * 4 for parameter in shared),
    }


def measure_in_process(case: str, options: list[str]) -> dict[str, Any]:
    """Run `measure` in a new process.

    Raises:
        SystemExit: the process failed.
    """
    done = subprocess.run(
        [sys.executable, __file__, "--only", case, *options], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{case} failed with exit code {done.returncode}; see above.")
    return json.loads(done.stdout.splitlines()[-1])


def table(rounds: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Make a row for each case; `jacobians_beyond_ls` is its peak beyond that of `ls`."""
    rows: list[dict[str, Any]] = []
    for case in rounds[0]:
        results = [cases[case] for cases in rounds]
        beyond = [
            (cases[case]["peak_bytes"] - cases[LS]["peak_bytes"]) / cases[case]["jacobian_bytes"]
            for cases in rounds
        ]
        rows.append(
            {
                "case": case,
                "peak_mib": round(
                    statistics.median(row["peak_bytes"] for row in results) / 2**20, 1
                ),
                "jacobians_beyond_ls": round(statistics.median(beyond), 3),
                "step_seconds": round(min(row["step_seconds"] for row in results), 4),
            }
        )
    return rows


@entry_point
def main() -> int:
    """Print the table; returns 0 if the limit holds, otherwise 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--rounds", type=int, default=1, help="processes for each row (default 1)")
    parser.add_argument("--others", nargs="*", default=OTHERS, help="further rows")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--batch", type=int, default=8, help="images of a batch (default 8)")
    parser.add_argument(
        "--width", type=int, default=64, help="width of the network, 64 in the paper"
    )
    parser.add_argument(
        "--steps", type=int, default=3, help="steps of each process, at least 2 (default 3)"
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        torch.set_num_threads(given.threads)
        print(
            json.dumps(
                measure(
                    given.only, torch.device(given.device), given.batch, given.width, given.steps
                )
            )
        )
        return 0
    options = [
        f"--{name}={getattr(given, name)}"
        for name in ("device", "threads", "batch", "width", "steps")
    ]
    cases = [LS, LOOP, *given.others]
    rounds = [
        {case: measure_in_process(case, options) for case in cases} for _ in range(given.rounds)
    ]
    rows, jacobian = table(rounds), rounds[0][LS]["jacobian_bytes"]
    print(
        f"width {given.width}, batch {given.batch}, {given.device}; the Jacobian has "
        f"{jacobian / 2**20:.1f} MiB"
    )
    for row in rows:
        print(
            f"{row['case']:<12} peak {row['peak_mib']:>9.1f} MiB = ls + "
            f"{row['jacobians_beyond_ls']:.3f} Jacobians{row['step_seconds']:>10.3f} s a step"
        )
    excess = next(row["jacobians_beyond_ls"] for row in rows if row["case"] == LOOP)
    print(
        f"{LOOP}: {excess:.3f} Jacobians, limit {LIMIT}: {'ok' if excess <= LIMIT else 'EXCEEDED'}"
    )
    if given.json:
        report = {
            **vars(given),
            "json": str(given.json),
            "jacobian_bytes": jacobian,
            "excess": excess,
            "limit": LIMIT,
        }
        given.json.write_text(json.dumps({**report, "rows": rows}, indent=2) + "\n")
    return 0 if excess <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
