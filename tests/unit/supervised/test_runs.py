"""Supervised runs of the command on the digits benchmark."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from mtrl_fairgrad.config.groups import config_dir
from mtrl_fairgrad.supervised.__main__ import main
from mtrl_fairgrad.supervised.benchmarks import BENCHMARKS, benchmark_class
from mtrl_fairgrad.supervised.benchmarks.digits import Digits
from mtrl_fairgrad.supervised.compare import FAIR, comparison_specs, single_task_specs
from mtrl_fairgrad.supervised.fit_folder import FitFolder, FitResult
from mtrl_fairgrad.supervised.result_table import ResultRow, ResultTable
from mtrl_fairgrad.supervised.trainer import Trainer
from mtrl_fairgrad.utils import extras
from mtrl_fairgrad.utils.atomic_io import RunFolderError
from mtrl_fairgrad.utils.validation import ConfigError
from mtrl_fairgrad.weighting import method_names

TINY = ["benchmark.pairs=200", "benchmark.width=2", "epochs=3", "progress=false", "threads=1"]


def interrupt_in_epoch(monkeypatch, number):
    """Let training be stopped by Ctrl-C when an epoch begins."""
    run_epoch = Trainer.run_epoch

    def interrupted(trainer, epoch):
        if epoch == number:
            raise KeyboardInterrupt
        return run_epoch(trainer, epoch)

    monkeypatch.setattr(Trainer, "run_epoch", interrupted)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "words", [["method=ls"], ["alpha=2"], ["method=famo", "loss_alpha=0.5"], ["method=pcgrad"]]
)
def test_a_run_learns_and_leaves_a_table(words, tmp_path, capsys):
    assert main([*TINY, *words, "epochs=6", "learning_rate=0.01", f"run_dir={tmp_path / 'r'}"]) == 0
    assert "left ↑" in capsys.readouterr().out
    [row] = rows(tmp_path / "r" / "table.csv")
    assert 0 <= float(row["left"]) <= 100 and float(row["seconds_per_epoch"]) > 0
    [path] = (tmp_path / "r").glob("*/seed-0/epochs.csv")
    history = rows(path)
    first, last = (
        sum(float(line[f"losses/{task}"]) for task in Digits.tasks)
        for line in (history[0], history[-1])
    )
    assert len(history) == 6 and last < first


def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, monkeypatch):
    words = [*TINY, "method=moco", "seeds=[3]"]
    assert main([*words, f"run_dir={tmp_path / 'whole'}"]) == 0
    interrupt_in_epoch(monkeypatch, 2)
    assert main([*words, f"run_dir={tmp_path / 'broken'}"]) == 130
    monkeypatch.undo()
    assert main([*words, f"run_dir={tmp_path / 'broken'}"]) == 0
    results = [
        json.loads((tmp_path / name / "moco/seed-3/outcome.json").read_text())
        for name in ("whole", "broken")
    ]
    assert results[0]["metrics"] == results[1]["metrics"]
    tensors = [
        FitFolder.open(tmp_path / name / "moco/seed-3").load_checkpoint().groups
        for name in ("whole", "broken")
    ]
    for group in tensors[0]:
        for name, value in tensors[0][group].items():
            assert torch.equal(value, tensors[1][group][name]), f"{group}/{name}"


def test_a_fit_is_a_run_folder_with_manifest_and_lock(tmp_path, capsys):
    words = [*TINY, "method=ls", "epochs=1", f"run_dir={tmp_path / 'r'}"]
    assert main(words) == 0
    folder = FitFolder.open(tmp_path / "r/ls/seed-0")
    assert folder.config["method"]["name"] == "ls" and folder.config["schedule"]["epochs"] == 1
    assert folder.manifest["overrides"] == words and folder.manifest["kind"] == "supervised"
    assert {"torch", "python"} <= folder.manifest["versions"].keys()
    (folder.path / "outcome.json").unlink()
    with folder.lock():
        code = os.fork()
        if not code:
            os._exit(main(words))
        assert os.waitstatus_to_exitcode(os.waitpid(code, 0)[1]) == 2
    assert not (folder.path / "outcome.json").exists()
    assert main(words) == 0 and folder.result() is not None


def test_a_fit_without_checkpoints_is_not_started_over(tmp_path, monkeypatch, capsys):
    words = [*TINY, "method=ls", f"run_dir={tmp_path}"]
    interrupt_in_epoch(monkeypatch, 2)
    assert main(words) == 130
    monkeypatch.undo()
    fit = tmp_path / "ls/seed-0"
    shutil.rmtree(fit / "checkpoints")
    before = (fit / "epochs.csv").read_bytes()
    assert before.count(b"\n") > 1
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "no checkpoint" in said and said.count("\n") == 1
    assert (fit / "epochs.csv").read_bytes() == before


def test_a_folder_with_the_result_of_another_fit_is_not_taken_for_a_new_one(tmp_path, capsys):
    fit = tmp_path / "ls/seed-0"
    fit.mkdir(parents=True)
    (fit / "outcome.json").write_text("{}")
    assert main([*TINY, "method=ls", f"run_dir={tmp_path}"]) == 2
    assert "outcome.json" in capsys.readouterr().err


def test_a_folder_whose_creation_was_killed_is_used_but_an_agents_run_is_not(tmp_path, capsys):
    words = [*TINY, "method=ls", "epochs=1", f"run_dir={tmp_path}"]
    path = tmp_path / "ls/seed-0"
    (path / "checkpoints").mkdir(parents=True)
    (path / "manifest.json").write_text('{"config_sha256": ""}')
    assert main(words) == 0
    for file in ("config.yaml", "manifest.json"):
        (path / file).write_text("steps: 100\n" if file == "config.yaml" else "{}")
    before = sorted(path.rglob("*"))
    assert main(words) == 2
    assert "already holds a run" in capsys.readouterr().err and sorted(path.rglob("*")) == before
    with pytest.raises(RunFolderError, match="training run"):
        FitFolder.open(path)


def test_a_finished_fit_is_not_repeated_and_another_specification_is_refused(
    tmp_path, capsys, monkeypatch
):
    words = [*TINY, "method=ls", f"run_dir={tmp_path / 'r'}"]
    assert main(words) == 0
    monkeypatch.setattr(Trainer, "run", None)
    assert main(words) == 0
    assert "finished before" in capsys.readouterr().err
    assert main([*words, "epochs=5"]) == 2
    error = capsys.readouterr().err
    assert "schedule.epochs (3 there, 5 now)" in error and error.count("\n") == 1


def test_a_loss_that_is_not_finite_stops_the_fit(tmp_path, capsys, monkeypatch):
    losses = Digits.losses

    def poisoned(self, outputs, batch):
        left, right, ink = losses(self, outputs, batch)
        return [left, right * float("nan"), ink]

    monkeypatch.setattr(Digits, "losses", poisoned)
    assert main([*TINY, "method=ls", f"run_dir={tmp_path / 'r'}"]) == 1
    error = capsys.readouterr().err
    assert "epoch 1" in error and "loss of right" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["benchmark=digit"], "benchmark=digit "),
        (["method=pcgard"], "method=pcgard "),
        (["compare=everything"], "compare=everything "),
        (["benchmark.pairs=0"], "pairs=0"),
        (["epochs=0"], "epochs=0"),
        (["batch_size=0"], "batch_size=0"),
        (["threads=0"], "threads=0"),
        (["workers=-1"], "workers=-1"),
        (["learning_rate=0"], "learning_rate=0"),
        (["loss_alpha=1"], "loss_alpha=1"),
        (["device=cuda:99"], "device=cuda:99"),
        (["benchmark=toy", "method=ls"], "benchmark=toy"),
        (["benchmark=celeba"], "Anno/list_attr_celeba.txt"),
        (["benchmark=celeba", "data.root=/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(words, part, tmp_path, capsys):
    given = [
        word
        for word in TINY
        if not (word.startswith("benchmark.") and any("benchmark=" in w for w in words))
    ]
    assert main([*given, *words, f"run_dir={tmp_path / 'r'}"]) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["celeba", "digits", "qm9"])
def test_a_missing_extra_is_one_sentence_before_anything_starts(
    name, tmp_path, monkeypatch, capsys
):
    [module] = benchmark_class(name).requires
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == module else name)
    assert main([f"benchmark={name}", f"run_dir={tmp_path / 'r'}"]) == 2
    error = capsys.readouterr().err
    assert module in error and "mtrl-fairgrad[supervised]" in error and error.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_the_command_imports_neither_agents_nor_simulators(tmp_path):
    """Supervised runs need nothing of reinforcement learning."""
    words = [*TINY, "epochs=1", "method=ls", f"run_dir={tmp_path / 'r'}"]
    program = f"""
import sys
from mtrl_fairgrad.supervised.__main__ import main
assert main({words!r}) == 0
ours = {{f"mtrl_fairgrad.{{room}}" for room in ("agents", "envs")}}
print(sorted((ours | {{"gymnasium", "metaworld", "mujoco"}}) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_comparisons_hold_the_papers_rows():
    assert {spec.label for spec in comparison_specs("all")} == set(method_names()) - {"stl"}
    assert {spec.label for spec in comparison_specs("fair")} == {
        *FAIR,
        *(f"fair {name}" for name in FAIR),
    }
    assert [spec.method["alpha"] for spec in comparison_specs("alpha")] == [1, 2, 5, 10]
    assert [spec.method["task"] for spec in single_task_specs(3)] == [0, 1, 2]


def test_a_comparison_measures_against_single_tasks(tmp_path, capsys):
    assert (
        main([*TINY, "compare=alpha", "seeds=[0,1]", "epochs=1", f"run_dir={tmp_path / 'r'}"]) == 0
    )
    found = {row["method"]: row for row in rows(tmp_path / "r" / "table.csv")}
    assert set(found) == {"stl", *(f"fairgrad α={alpha}" for alpha in (1, 2, 5, 10))}
    assert float(found["stl"]["delta_m"]) == 0 and found["stl"]["mr"] == ""
    assert all(row["seeds"] == "2" for row in found.values())


def test_an_interrupted_comparison_leaves_a_table_of_the_finished_rows(tmp_path, monkeypatch):
    run = Trainer.run

    def killed(trainer, progress):
        if trainer.spec.method.get("alpha") == 5:
            raise KeyboardInterrupt
        return run(trainer, progress)

    monkeypatch.setattr(Trainer, "run", killed)
    words = [*TINY, "compare=alpha", "epochs=1", f"run_dir={tmp_path / 'r'}"]
    assert main(words) == 130
    found = rows(tmp_path / "r" / "table.csv")
    assert [row["method"] for row in found] == ["stl", "fairgrad α=1", "fairgrad α=2"]
    assert [row["mr"] == "" for row in found] == [True, False, False]
    monkeypatch.undo()
    assert main(words) == 0
    assert len(rows(tmp_path / "r" / "table.csv")) == 5


def test_a_metric_that_is_nan_affects_the_summaries_of_its_own_row_alone():
    def row(label, left):
        return ResultRow(label, (FitResult({"left": left, "right": 50, "ink": 1.0}, {}, 1.0),))

    rows = (row("ls", 84), row("si", float("nan")), row("mgda", 80))
    found = ResultTable(Digits(), (row("stl", 80), *rows)).summaries()
    assert found["si"].keys() == {"time"} and found["ls"]["delta_m"] == pytest.approx(-5 / 3)
    assert found["ls"]["mr"] == 1 and found["mgda"]["mr"] == pytest.approx(4 / 3)
    assert "delta_m" not in ResultTable(Digits(), (row("stl", 0), *rows)).summaries()["ls"]


def test_the_tables_numbers_by_hand():
    def row(label, left, right, ink, seconds):
        return ResultRow(
            label, (FitResult({"left": left, "right": right, "ink": ink}, {}, seconds),)
        )

    table = ResultTable(
        Digits(),
        (row("stl", 80, 50, 2.0, 9), row("ls", 84, 50, 1.0, 2), row("mgda", 80, 40, 1.0, 3)),
    )
    found = table.summaries()
    assert found["ls"]["delta_m"] == pytest.approx((-5 + 0 - 50) / 3)
    assert found["mgda"]["delta_m"] == pytest.approx((0 + 20 - 50) / 3)
    assert found["ls"]["mr"] == pytest.approx(1.0) and found["mgda"]["mr"] == pytest.approx(5 / 3)
    assert found["mgda"]["time"] == 1.5


def test_every_benchmark_has_a_configuration_file():
    files = {path.stem for path in (config_dir() / "benchmark").glob("*.yaml")}
    assert files == {*BENCHMARKS, "toy"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_listed_under_its_own_name(name):
    if name == "celeba":
        pytest.importorskip("PIL")
    assert benchmark_class(name).name == name


def test_an_unknown_benchmark_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"benchmark=mnist.*celeba.*qm9"):
        benchmark_class("mnist")


def test_training_validation_and_test_digits_are_different():
    """A digit is in one part alone: no column of eight that begins a training image begins a test
    image.
    """
    splits = Digits(pairs=400).splits(0, 64, 0, False)
    parts = [
        {row.numpy().tobytes() for row in part.dataset.tensors[0][:, 0, :, :3]}
        for part in vars(splits).values()
    ]
    assert len(parts) == 3 and not parts[0] & parts[2] and not parts[0] & parts[1]
