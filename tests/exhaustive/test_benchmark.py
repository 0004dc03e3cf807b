"""A quick run of every benchmark section."""

import csv
import json
import math
import multiprocessing
import re

import benchmark
import pytest
import torch
from benchmarking import gpu, machine, many_tasks, profiling, tables, variants

WAYS = ["ls", "fairgrad_newton", "fairgrad_sgd", "pcgrad", "cagrad", "nash_mtl"]
LOOPS = ["autograd_loop", "task_loop", "torchjd_fairgrad"]
PATHS = ["official code", "fast path"]
COPIES = ["E=1, 1 worker", "E=2, 1 worker", "E=2, 2 workers"]
EXPECTED = {
    ("update", "GFLOP"): ["matrix products of an update"],
    ("update", "ms"): [
        *("plain_ls", *WAYS, *LOOPS, "floor", "floor_flat"),
        *(f"solve {form}, {n}" for form in ("newton", "sgd") for n in ("1 seed", "10 seeds")),
    ],
    ("update", "×"): [
        *(f"{way} / plain_ls" for way in WAYS + LOOPS),
        *(f"{way} / fairgrad_newton" for way in [*LOOPS, "ls"]),
        *(f"{way} / floor_flat" for way in ("plain_ls", "ls", "fairgrad_newton")),
        "fairgrad_newton / floor",
    ],
    ("update", "GFLOP/s"): [
        "matrix products of floor",
        "matrix products of floor_flat",
        "matrix product, 64 × 64",
    ],
    ("update", "%"): [
        *(f"solves' share of {way}" for way in ("fairgrad_newton", "fairgrad_sgd")),
        "guard's share of fairgrad_newton",
        *(
            f"fairgrad_newton: {group}"
            for group in (*profiling.GROUPS, profiling.OTHERS, profiling.OUTSIDE)
        ),
    ],
    ("tasks", "ms"): [
        f"{way}, K={k}" for way in ("fairgrad_newton", "plain_ls") for k in (2, 10, 50)
    ],
    ("tasks", "×"): [f"{way}, K=50 / K=10" for way in ("fairgrad_newton", "plain_ls")],
    ("many_tasks", "ms"): [many_tasks.REFERENCE, *many_tasks.PASSES],
    ("many_tasks", "×"): [f"{way} / {many_tasks.REFERENCE}" for way in many_tasks.PASSES],
    ("seeds", "ms"): ["S=1", "S=3", "S=10"],
    ("seeds", "×"): [f"S={seeds}, of each seed / S=1" for seeds in (1, 3, 10)],
    ("simulators", "transitions/s of a core"): [
        *(
            f"MT10, {way}"
            for way in ("metaworld", "physics only", *(f"ours, {path}" for path in PATHS))
        )
    ],
    ("simulators", "×"): [
        *(
            f"MT10, ours, {path} / {other}"
            for path in PATHS
            for other in ("metaworld", "physics only")
        ),
        "2 environments, 2 workers / 1 worker",
    ],
    ("simulators", "substeps"): ["MT10, substeps of a transition"],
    ("simulators", "transitions/s"): ["2 environments, 1 worker", "2 environments, 2 workers"],
    ("copies", "transitions/s"): COPIES,
    ("copies", "%"): [f"{name}: workers wait" for name in COPIES],
    ("copies", "×"): [f"{name} / ({name[5]} × own rate)" for name in COPIES],
    ("end_to_end", "units"): 2 * ["width"],
    ("end_to_end", "ms"): 2 * ["step", "update alone", "simulation alone"],
    ("end_to_end", "×"): 2 * ["update / simulation", "step / max(update, simulation)"],
    ("end_to_end", "%"): 2 * ["learner waits", "simulators wait"],
    ("end_to_end", "env_steps/s"): 2 * ["env_steps"],
    ("startup", "s"): [
        *(
            "interpreter",
            "imports",
            "configuration",
            "simulators",
            "agent",
            "first step",
            "first update",
            "rest",
        ),
        "until the first step is done",
    ],
    ("launches", "operations"): [f"{way}: launches" for way in variants.METHODS],
    ("launches", "calls"): [f"{way}: host calls" for way in variants.METHODS],
    ("long", "steps"): ["vector steps"],
    ("long", "times"): ["times the replay was filled"],
    ("long", "bytes"): ["replay, of a transition"],
    ("long", "s"): ["wall time"],
    ("long", "MiB"): [
        f"{who}, {which}"
        for who in ("learner", "simulators")
        for which in ("first", "last", "largest")
    ],
    ("long", "%"): ["learner, drift", "simulators, drift"],
}


def bare(name):
    """Without the number of threads and the end-to-end section's copies and target."""
    return re.sub(r", \d+ threads?$|^(E=\d, )?update ≈ .* simulation: ", "", name)


@pytest.mark.skipif(not machine.KNOWN, reason="memory and processor time are read from /proc")
def test_a_quick_run_has_every_row(tmp_path):
    files = {name: tmp_path / f"rows.{name}" for name in ("json", "csv")}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    before = torch.get_num_threads()
    sections = [name for name in benchmark.SECTIONS if name != gpu.SECTION]
    benchmark.main(["--quick", "--sections", *sections, *words])
    assert torch.get_num_threads() == before and multiprocessing.active_children() == []
    report = json.loads(files["json"].read_text())
    found = {}
    for row in report["rows"]:
        found.setdefault((row["section"], row["unit"]), []).append(bare(row["name"]))
        assert math.isfinite(row["value"]), row
        assert row["value"] > 0 or row["unit"] in ("%", "calls") or row["name"] == "rest", row
    assert {key: sorted(names) for key, names in found.items()} == {
        key: sorted(n) for key, n in EXPECTED.items()
    }
    with files["csv"].open() as file:
        assert [{**row, "value": float(row["value"])} for row in csv.DictReader(file)] == report[
            "rows"
        ]
    assert {"cpu", "cores", "gpu", "threads", "versions", "git"} <= report["machine"].keys()
    machines = json.loads(tables.machine_path(files["csv"]).read_text())
    assert machines == dict.fromkeys(sections, report["machine"])
    assert tables.show_highlights(files["csv"]).startswith(machine.summary(report["machine"]))


def test_a_quick_run_of_the_gpu_section_measures_what_needs_no_gpu(tmp_path):
    path = tmp_path / "rows.csv"
    benchmark.main(["--quick", "--sections", "gpu", "--csv", str(path)])
    rows = tables.read_csv(path)
    measured = {row.name: row.value for row in rows if "left out" not in row.name}
    assert len({row.name for row in rows}) == len(rows)
    assert all(math.isfinite(value) for value in measured.values())
    ways = {*variants.METHODS, variants.PLAIN, variants.TORCHJD}
    for way in ways:
        assert measured[f"{way}, eager: speed"] > 0
        assert (way == "ls") != (f"{way}, eager / ls" in measured)
    for part in (*profiling.PARTS, profiling.REST, "kernels"):
        assert measured[f"fairgrad_newton, eager: {part}"] >= 0
    assert measured["solve newton, host, K=50, 10 seeds"] > 0
    # The profiler counts PyTorch's operations: a Jacobian method needs more than LS's own share.
    assert measured["fairgrad_newton, eager: kernels"] > 100
    forms = {variant for variant in (row.name for row in rows) if "left out, CUDA" in variant}
    assert any("lean_sac, compiled graph" in name for name in forms)
    assert not [row for row in rows if row.unit == gpu.FAILURES]
