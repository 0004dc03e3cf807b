"""Reports on folders with runs below them, and outputs that cannot be written."""

import csv
import shutil

import pytest

from mtrl_fairgrad import report
from tests.support.fabricated_runs import FAIRGRAD

COURSE = {0: [[0.0]], 1000: [[0.5]]}
LS = {"name": "ls"}


@pytest.fixture
def runs(make, tmp_path):
    """Two methods with two seeds each, in a sweep's folder below the folder `runs`."""

    def add(name, seed, method=FAIRGRAD, **more):
        return make(
            f"runs/{name}", COURSE, seeds=(seed,), tasks=("reach-v3",), method=method, **more
        )

    for seed in (0, 1):
        add(f"sweep/fairgrad-{seed}", seed)
        add(f"sweep/ls-{seed}", seed, LS)
    (tmp_path / "runs" / "sweep" / ".sweeps").mkdir()
    (tmp_path / "runs" / "sweep" / "multirun.yaml").write_text("hydra: {}\n")
    return tmp_path / "runs", add


def methods(folder):
    with (folder / "report.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["task"] in ("mean", "reach-v3")]
    return {row["method"]: row["seeds"] for row in rows}


def test_a_sweep_s_folder_is_reported_with_its_seeds_pooled(runs):
    folder, _ = runs
    assert report.main([str(folder / "sweep")]) == 0
    assert sorted(methods(folder / "sweep").values()) == ["2", "2"]


def test_a_parent_of_runs_is_reported_without_what_is_no_run(runs, capsys):
    folder, add = runs
    foreign = folder / "notes"
    foreign.mkdir()
    (foreign / "config.yaml").write_text("model: {size: 3}\n")
    damaged = folder / "damaged"
    shutil.copytree(folder / "sweep" / "ls-0", damaged)
    (damaged / "config.yaml").write_text("a: [\n")
    unfinished = add("unfinished", 7)
    (unfinished / "evaluations.csv").unlink()
    again = add("again", 1, manifest={"started": "2999-01-01T00:00:00+00:00"})
    assert report.main([str(folder)]) == 0
    assert sorted(methods(folder).values()) == ["2", "2"]
    notes = capsys.readouterr().err.splitlines()
    left_out = [foreign, damaged, unfinished, folder / "sweep" / "fairgrad-1"]
    assert len(notes) == len(left_out) and all(line.startswith("note: ") for line in notes)
    for path in left_out:
        assert any(f"{path} is left out" in line or f"{path} " in line for line in notes), path
    assert str(again) in "".join(notes)


def test_a_folder_without_any_run_is_one_sentence(tmp_path, capsys):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    assert report.main([str(tmp_path / "empty")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_runs_are_searched_a_few_levels_deep_only(make, tmp_path, capsys):
    make("a/b/c/run", COURSE, seeds=(0,), tasks=("reach-v3",))
    assert report.main([str(tmp_path / "a")]) == 0
    make("a2/b/c/d/e/f/run", COURSE, seeds=(0,), tasks=("reach-v3",))
    assert report.main([str(tmp_path / "a2")]) == 2


@pytest.mark.parametrize("option", ["--html", "--latex", "--markdown"])
def test_a_folder_is_no_file_to_write(option, runs, tmp_path, monkeypatch, capsys):
    folder, _ = runs
    monkeypatch.chdir(tmp_path)
    for given in (".", str(tmp_path)):
        assert report.main([str(folder / "sweep"), option, given]) == 2
        found = capsys.readouterr()
        assert found.err.startswith("error: ") and found.err.count("\n") == 1
        assert f"{given} is a folder" in found.err and found.out == ""


@pytest.mark.parametrize("option", ["--out", "--figures"])
def test_a_file_is_no_folder_to_write_to(option, runs, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert report.main([str(runs[0] / "sweep"), option, str(file)]) == 2
    found = capsys.readouterr()
    assert f"{file} is a file" in found.err and found.out == ""
