"""The benchmark: every row is there, its files agree, and the arithmetic floor is what an update
computes.
"""

import csv
import json
import math
import multiprocessing
import re

import benchmark
import numpy as np
import pytest
import torch
from benchmarking import floor, machine, profiling, simulators, tables, timing, update
from benchmarking.settings import TINY, Row, Size
from torch.utils.flop_counter import FlopCounterMode

from mtrl_fairgrad.envs.task_names import MT10
from tests.support.paths import ROOT

CPU = torch.device("cpu")
RESULTS = ROOT / "results" / "performance"


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


# ---- the floor ----


@pytest.mark.parametrize("size", [TINY, Size(tasks=2, batch=6, width=20, depth=2)])
def test_the_floor_has_the_operations_of_a_plain_update(size):
    plain = counted(update.plain(size, CPU)["plain_ls"])
    assert plain == floor.flops(size) > 0
    assert [counted(floor.Floor(size, CPU, per_task).run) for per_task in (True, False)] == [
        plain,
        plain,
    ]


def test_operations_at_the_papers_size_by_hand():
    """Per sample: actor and critics forward twice and four times; backward to weights and to
    inputs, where needed.
    """
    actor, critic = 49 * 400 + 2 * 400**2 + 400 * 8, 53 * 400 + 2 * 400**2 + 400
    critics_learn = 2 * (critic + critic + (critic - 53 * 400))
    actor_learns = actor + actor + (actor - 49 * 400) + 2 * (critic + critic)
    assert (
        floor.flops(Size())
        == 2 * 1280 * (actor + 2 * critic + critics_learn + actor_learns)
        == 13_845_504_000
    )


def test_the_floor_finds_the_same_however_often_it_runs():
    found = floor.Floor(TINY, CPU, per_task=True)
    found.run()
    first = {key: array.clone() for key, array in found._arrays.items()}
    found.run()
    assert {key[0] for key in first} == {"x", "g", "weight", "out"}
    assert all(torch.equal(array, found._arrays[key]) for key, array in first.items())


# ---- timing ----


def test_rounds_take_turns_and_ratios_are_medians_of_rounds():
    order, now = [], [0.0]
    work = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}

    def clock():
        now[0] += 1 + len(order)  # a call takes as many seconds as there were calls
        return now[0]

    times = timing.interleaved(work, 3, CPU, warm_up=1, clock=clock)
    assert order == ["a", "b"] * 4 and times == {"a": [4, 6, 8], "b": [5, 7, 9]}
    assert timing.ratio([1, 4, 100], [1, 2, 1]) == 2 and timing.milliseconds([1, 3, 2]) == 2000


def test_operations_are_told_apart():
    keys = (
        "aten::addmm",
        "ampere_sgemm_128x64_nn",
        "aten::_fused_adam_",
        "aten::copy_",
        "aten::relu",
        "aten::sum",
    )
    groups = [
        "matrix products",
        "matrix products",
        "Adam",
        "copies",
        "biases and activations",
        profiling.OTHERS,
    ]
    assert [profiling._group(key) for key in keys] == groups


# ---- physics ----


def test_physics_only_is_the_physics_of_the_episode():
    suite = simulators._suite_of(MT10[6:7], 20, fast=False)
    episode = simulators.Episode(suite, MT10[6], 20, np.random.default_rng(0))
    moved = np.abs(episode.recorded - episode._start.qpos).max()
    for _ in range(2):
        episode.run()
        # MuJoCo's warm start differs: Metaworld evaluates the accelerations once more after each
        # step.
        np.testing.assert_allclose(episode.data.qpos, episode.recorded, atol=1e-2 * moved)
    assert episode.substeps == 5 and math.isclose(episode.substeps_done, 5) and moved > 0.01


# ---- files ----


def test_kept_sections_replace_only_themselves(tmp_path):
    path = tmp_path / "machine.csv"
    old = [Row("update", "a", 1.0, "ms"), Row("seeds", "b", 2.0, "×")]
    tables.update_csv(path, old, {"cpu": "old"})
    tables.update_csv(path, [Row("update", "c", 3.0, "ms")], {"cpu": "new"})
    assert tables.read_csv(path) == [Row("update", "c", 3.0, "ms"), old[1]]
    assert json.loads(tables.machine_path(path).read_text()) == {
        "update": {"cpu": "new"},
        "seeds": {"cpu": "old"},
    }


def test_unknown_devices_and_sections_are_refused(capsys):
    with pytest.raises(SystemExit, match="device=tpu is unknown; allowed: auto, cpu, cuda, cuda:N"):
        benchmark.main(["--device", "tpu"])
    with pytest.raises(SystemExit):
        benchmark.main(["--sections", "speed"])
    assert "invalid choice: 'speed'" in capsys.readouterr().err


def test_the_performance_page_shows_the_published_measurements():
    assert (
        tables.show_highlights(RESULTS / "cpu-2-cores.csv")
        in (ROOT / "docs" / "performance.md").read_text()
    )


# ---- everything, tiny ----

WAYS = ["ls", "fairgrad_newton", "fairgrad_sgd", "pcgrad", "cagrad", "nash_mtl"]
LOOPS = ["autograd_loop", "task_loop", "torchjd_fairgrad"]
PATHS = ["official code", "fast path"]
EXPECTED = {
    ("update", "GFLOP"): ["matrix products of an update"],
    ("update", "ms"): [
        *("plain_ls", *WAYS, *LOOPS, "floor", "floor_flat"),
        *(
            f"solve {form}, {n}"
            for form in ("newton, lapack", "newton, batched", "sgd")
            for n in ("1 seed", "10 seeds")
        ),
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
    ("end_to_end", "units"): ["width"],
    ("end_to_end", "ms"): ["step", "update alone", "simulation alone"],
    ("end_to_end", "×"): ["update / simulation", "step / max(update, simulation)"],
    ("end_to_end", "%"): ["learner waits", "simulators wait"],
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
    """Without the number of threads and the end-to-end section's target."""
    return re.sub(r", \d+ threads?$|^update ≈ .* simulation: ", "", name)


@pytest.mark.slow
@pytest.mark.skipif(not machine.KNOWN, reason="memory and processor time are read from /proc")
def test_a_quick_run_has_every_row(tmp_path):
    files = {name: tmp_path / f"rows.{name}" for name in ("json", "csv")}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    before = torch.get_num_threads()
    benchmark.main(["--quick", "--sections", *benchmark.SECTIONS, *words])
    assert torch.get_num_threads() == before and multiprocessing.active_children() == []
    report = json.loads(files["json"].read_text())
    found = {}
    for row in report["rows"]:
        found.setdefault((row["section"], row["unit"]), []).append(bare(row["name"]))
        assert math.isfinite(row["value"]), row
        assert row["value"] > 0 or row["unit"] == "%" or row["name"] == "rest", row
    assert {key: sorted(names) for key, names in found.items()} == {
        key: sorted(n) for key, n in EXPECTED.items()
    }
    with files["csv"].open() as file:
        assert [{**row, "value": float(row["value"])} for row in csv.DictReader(file)] == report[
            "rows"
        ]
    assert {"cpu", "cores", "gpu", "threads", "versions", "git"} <= report["machine"].keys()
    machines = json.loads(tables.machine_path(files["csv"]).read_text())
    assert machines == dict.fromkeys(benchmark.SECTIONS, report["machine"])
    assert tables.show_highlights(files["csv"]).startswith(machine.summary(report["machine"]))
