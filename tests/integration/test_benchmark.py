"""The benchmark: every row is there, its files agree, and the arithmetic floor is what an update
computes.
"""

import json
import math

import benchmark
import numpy as np
import pytest
import torch
from benchmarking import floor, profiling, simulators, tables, timing, update
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
