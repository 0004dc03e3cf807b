"""The benchmark's section `gpu`: budget of time, targets, graphs of plain code, files."""

import itertools
import json
import math
import subprocess
import sys
import warnings

import benchmark
import pytest
import torch
from benchmarking import gpu, machine, profiling, solves, tables, targets, variants
from benchmarking.budget import LEAST_CORRECTION, Budget
from benchmarking.lean import LeanSAC
from benchmarking.plain import PlainSAC, Source, mean_of_losses
from benchmarking.replay import replayed
from benchmarking.settings import TINY, Row, Settings, Size
from benchmarking.variants import COMPILED, EAGER, GRAPH, Variant

from mtrl_fairgrad.utils.faults import FallbackWarning
from tests.support.paths import ROOT

CPU = torch.device("cpu")
QUICK = Settings(CPU, quick=True, rounds=2)


# ---- budget ----


class Clock:
    """Time that passes only when work is done."""

    now = 0.0

    def __call__(self):
        return self.now

    def work(self, seconds):
        def pass_time():
            self.now += seconds

        return pass_time


def test_work_that_fits_is_done_and_other_work_left_out():
    clock = Clock()
    budget = Budget(10, clock)
    assert budget.spend(6, clock.work(6)) and budget.left == 4
    assert not budget.spend(5, clock.work(5)) and clock.now == 6
    assert budget.spend(4, clock.work(4)) and budget.left == 0


def test_estimates_are_corrected_by_the_work_before():
    clock = Clock()
    budget = Budget(100, clock)
    budget.spend(10, clock.work(30))
    assert budget.expected(10) == 30 and not budget.spend(24, clock.work(24))
    fast = Budget(100, clock)
    fast.spend(10, clock.work(8))
    assert fast.expected(10) == 8
    fast.spend(90, clock.work(1))
    assert fast.expected(10) == 10 * LEAST_CORRECTION


def test_a_section_without_time_names_everything_that_it_left_out(capsys):
    rows = list(gpu.measure(Settings(CPU, quick=True, rounds=1, minutes=0)))
    assert [row.name for row in rows] == [
        *(f"left out for time: {piece.name}" for piece in gpu.pieces()),
        "duration",
    ]
    assert "left out for time: solves" in capsys.readouterr().err


# ---- pieces ----


def test_the_name_of_an_update_says_what_differs_from_the_default():
    assert Variant("ls", GRAPH).name == "ls, graph"
    assert (
        Variant("ls", COMPILED, "tf32", 512, 10, 50).name
        == "ls, compiled graph, tf32, 512 a task, 10 seeds, K=50"
    )


def test_everything_that_the_targets_need_is_measured(monkeypatch):
    monkeypatch.setattr(gpu, "updates", lambda variant, settings: lambda: None)

    def solved(section, settings):
        for form, tasks, seeds in itertools.product(solves.FORMS, solves.TASKS, solves.SEEDS):
            yield Row(section, solves.name(form, tasks, seeds), 1, "µs")

    monkeypatch.setattr(solves, "measure", solved)
    monkeypatch.setattr(profiling, "parts", lambda *_: iter(()))
    monkeypatch.setattr(gpu, "_free", lambda device: None)
    rows = list(gpu.measure(QUICK))
    names = [row.name for row in rows]
    assert len(names) == len(set(names))
    measured = {row.name: row.value for row in rows}
    assert {target.verdict(measured) for target in targets.TARGETS} <= {"met", "missed"}
    assert measured["cagrad, graph / ls"] > 0 and "ls, graph / ls" not in measured


def test_an_update_that_fails_leaves_the_other_rows(monkeypatch, capsys):
    def build(variant, settings):
        if variant.way == "ls":
            raise RuntimeError("no kernel")
        return lambda: None

    monkeypatch.setattr(gpu, "updates", build)
    piece = gpu.compared("two", [Variant("ls", GRAPH), Variant("mgda", GRAPH)])
    failure, *others = piece.rows(QUICK)
    assert failure == Row("gpu", "failed: ls, graph", 1, gpu.FAILURES)
    assert [row.name for row in others] == ["mgda, graph", "mgda, graph: speed"]
    assert "no kernel" in capsys.readouterr().err


def test_an_error_within_a_piece_leaves_the_rows_before_it(capsys):
    def rows(settings):
        yield Row("gpu", "first", 1, "ms")
        raise RuntimeError("device lost")

    found = []
    gpu._collect(gpu.Piece("broken", 1, rows), QUICK, found)
    assert [row.name for row in found] == ["first", "failed: broken"]
    assert "device lost" in capsys.readouterr().err


def test_ctrl_c_leaves_what_was_measured(monkeypatch, capsys):
    def rows(settings):
        yield Row("gpu", "first", 1, "ms")
        raise KeyboardInterrupt

    pieces = [gpu.Piece("long", 1, rows), gpu.Piece("next", 1, lambda settings: iter(()))]
    monkeypatch.setattr(gpu, "pieces", lambda: pieces)
    found = list(gpu.measure(QUICK))
    assert [row.name for row in found] == ["first", "failed: interrupted at long", "duration"]
    assert found[1].unit == gpu.FAILURES


@pytest.mark.exhaustive
def test_the_section_needs_no_simulator():
    blocked = "import sys; sys.modules['mujoco'] = sys.modules['metaworld'] = None; "
    command = [sys.executable, "-c", blocked + "sys.path.insert(0, 'scripts'); import benchmark"]
    subprocess.run(command, cwd=ROOT, check=True)


def test_a_failure_ends_the_command_with_an_error_after_the_files_are_written(
    monkeypatch, tmp_path
):
    failing = [Row("gpu", "ls, graph", 1.5, "ms"), Row("gpu", "failed: mgda", 1, gpu.FAILURES)]
    monkeypatch.setitem(benchmark.SECTIONS, "gpu", lambda settings: iter(failing))
    with pytest.raises(SystemExit, match="failed: mgda"):
        benchmark.main(["--sections", "gpu", "--keep", str(tmp_path)])
    csv, report = tables.kept_files(tmp_path, machine.describe(CPU))
    assert tables.read_csv(csv) == failing
    assert [row["name"] for row in json.loads(report.read_text())["rows"]] == [
        "ls, graph",
        "failed: mgda",
    ]


def test_forms_with_a_graph_are_left_out_on_a_cpu():
    with pytest.raises(variants.LeftOut):
        variants.updates(Variant("ls", GRAPH), QUICK)


def test_an_update_that_gives_up_its_graph_is_not_measured_as_one(monkeypatch):
    def give_up(made):
        warnings.warn("the capture failed", FallbackWarning, stacklevel=1)

    monkeypatch.setattr(variants.update, "updates", give_up)
    with pytest.raises(FallbackWarning):
        variants.updates(Variant("ls", EAGER), QUICK)


def test_the_precision_holds_while_an_update_is_built_and_no_longer(monkeypatch):
    seen = []

    def built(made):
        seen.append(torch.get_float32_matmul_precision())

    def configured(config, device):
        torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")

    monkeypatch.setattr(variants.update, "updates", built)
    monkeypatch.setattr(variants, "configure_torch", configured)
    for precision in ("fp32", "tf32"):
        variants.updates(Variant("ls", EAGER, precision), QUICK)
    assert seen == ["highest", "high"]
    assert torch.get_float32_matmul_precision() == "highest"


# ---- targets ----


def test_the_worst_group_and_the_best_of_its_rows_are_compared():
    most = targets.Target("solve", 60, True, (("a", "b"), ("c",)))
    assert most.value({"a": 50, "b": 40, "c": 45}) == 45
    assert most.verdict({"a": 50, "c": 61}) == "missed"
    assert most.verdict({"a": 50, "c": 60}) == "met"
    least = targets.Target("speed", 600, False, (("a", "b"), ("c",)))
    assert least.value({"a": 500, "b": 700, "c": 650}) == 650
    assert least.verdict({"a": 500, "b": 700, "c": 599}) == "missed"
    assert least.verdict({"a": 500, "b": 700}) == "not measured"


def test_every_target_is_in_the_table():
    rows = [Row("gpu", solves.name("newton, kernel", 10, 1), 50.0, "µs")]
    heading, _, *lines = targets.lines(rows)
    assert heading.split() == ["target", "bound", "measured"]
    assert len(lines) == len(targets.TARGETS)
    solve = next(line for line in lines if line.startswith("solve of 10 tasks"))
    assert solve.split()[-4:] == ["≤", "60", "50", "met"]


# ---- plain code in a graph ----


def stand_in(function):
    """Return the function itself in place of a graph."""
    return function


def test_replayed_updates_use_new_draws_and_equal_ordinary_ones():
    def trained(graph):
        torch.manual_seed(0)
        agent, source = PlainSAC(mean_of_losses, TINY, CPU), Source(TINY, CPU)
        start = source.streams.state()

        def update(drawn):
            agent.update(*source.read(drawn))

        once = replayed(update, source.numbers, stand_in) if graph else None
        source.streams.load_state(start)
        for _ in range(4):
            once() if once else update(source.numbers())
        return [parameter.detach() for parameter in agent.actor.parameters()]

    assert all(map(torch.equal, trained(False), trained(True)))


def test_lean_sac_fits_its_critics_and_moves_actor_temperature_and_targets():
    torch.manual_seed(0)
    size = Size(tasks=1, batch=32, width=16, observation=3, action=2)
    agent, source = LeanSAC(size, CPU, compile=False), Source(size, CPU)
    batch, noise = source.draw()
    batch = batch._replace(terminated=torch.ones_like(batch.terminated))  # targets are rewards
    before = [p.detach().clone() for p in (*agent.actor.parameters(), *agent.targets.values())]

    def error():
        values = agent.values(agent.critics, batch.observations[0, 0], batch.actions[0, 0])
        return float((values - batch.rewards[0, 0]).detach().square().mean())

    first = error()
    for _ in range(200):
        agent.update(batch, noise)
    assert error() < 0.9 * first
    after = (*agent.actor.parameters(), *agent.targets.values())
    assert not any(map(torch.equal, before, after)) and float(agent.log_temperature.detach()) != 0


# ---- parts of the time ----


def test_kernels_are_told_apart():
    keys = {
        "newton_kernel": "solve",
        "sgd_kernel": "solve",
        "sm90_xmma_gemm_f32f32": "matrix products",
        "nvjet_sss_128x64_64x5_1x2_h_bz_NNT": "matrix products",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float>": "matrix products",
        "Memcpy DtoH (Device -> Pinned)": "copies to and from the host",
        "void at::native::vectorized_elementwise_kernel": profiling.REST,
    }
    assert {key: profiling._group(key, profiling.PARTS, profiling.REST) for key in keys} == keys


def test_parts_count_the_operations_of_one_update():
    a, b = torch.ones(8, 8), torch.ones(8, 8)
    rows = list(profiling.parts("gpu", "product", lambda: torch.mm(a, b), QUICK))
    values = {row.name: row.value for row in rows}
    assert values["product: kernels"] >= 1 and values["product: matrix products"] > 0
    assert values["product: solve"] == 0


# ---- files ----


def test_files_are_named_after_the_gpu_and_else_after_the_processor(tmp_path):
    described = {"gpu": "NVIDIA H200", "cpu": "Intel(R) Xeon(R) Processor"}
    assert [path.name for path in tables.kept_files(tmp_path, described)] == [
        "nvidia-h200.csv",
        "nvidia-h200.json",
    ]
    csv, _ = tables.kept_files(tmp_path, {**described, "gpu": None})
    assert csv.name == "intel-r-xeon-r-processor.csv"


def test_the_machine_of_a_gpu_has_driver_cuda_and_triton(monkeypatch):
    monkeypatch.setattr(machine, "_driver", lambda: "580.1")
    assert machine.gpu_software().keys() == {"driver", "cuda", "triton"}
    described = {**machine.describe(CPU), "gpu": "NVIDIA H200", **machine.gpu_software()}
    assert machine.summary(described).startswith("NVIDIA H200, driver 580.1")


def test_shown_results_of_a_gpu_end_with_the_targets(tmp_path, capsys):
    path = tmp_path / "card.csv"
    tables.update_csv(
        path, [Row("gpu", "ls, graph: speed", 900.0, "updates/s")], machine.describe(CPU)
    )
    benchmark.main(["--show", str(path)])
    shown = capsys.readouterr().out
    assert "gpu: ls, graph: speed" in shown and "not measured" in shown


def test_a_gpu_measures_its_section_and_a_cpu_the_others():
    assert benchmark.usual(torch.device("cuda")) == ["gpu"]
    assert {"gpu", "long"}.isdisjoint(benchmark.usual(CPU))
    assert math.isclose(Settings(CPU, quick=False).minutes, 3.5)


def test_eager_is_an_own_form():
    assert variants.FORMS[EAGER]["cuda_graph"] == "false"
