"""Single-task results that are published or given instead of trained."""

import pytest
from omegaconf import OmegaConf

from mtrl_fairgrad.supervised import compare
from mtrl_fairgrad.supervised.__main__ import main
from mtrl_fairgrad.supervised.config import SupervisedConfig, from_hydra
from mtrl_fairgrad.supervised.fit_folder import FitFolder, FitResult
from tests.support.errors import check_refusal
from tests.unit.supervised.fit_files import fit_config, metrics, table_rows, write_fit

TINY = ["benchmark.pairs=8", "benchmark.width=1", "epochs=1", "progress=false", "threads=1"]
METRICS = {"left": 80.0, "right": 40.0, "ink": 2.0}


@pytest.fixture
def fitted(monkeypatch):
    """Replace training by fixed results; returns the list of methods that were trained."""
    trained = []

    class FakeTrainer:
        def __init__(self, spec, benchmark, *others):
            self.spec = spec
            self.values = METRICS if benchmark.name == "digits" else metrics("nyuv2", 1.1)

        def run(self, progress):
            trained.append(self.spec.method["name"])
            return FitResult(self.values, self.values, 1.0)

    monkeypatch.setattr(compare, "Trainer", FakeTrainer)
    return trained


def write_single_tasks(root, left=100.0, seed=0):
    """Three fits of one task each, whose own metric alone counts."""
    for task, (name, value) in enumerate({**METRICS, "left": left}.items()):
        config = fit_config("digits", "stl", seed, epochs=1, task=task)
        config["benchmark"] = {"name": "digits", "pairs": 8, "width": 1}
        path = root / f"stl-{task}" / f"seed-{seed}"
        write_fit(path, config)
        values = {**dict.fromkeys(METRICS, 1.0), name: value}
        FitFolder.open(path).save_result(FitResult(values, values, 2.0))


def test_published_baselines_train_no_single_task(fitted, tmp_path):
    words = ["benchmark=nyuv2", "epochs=1", "progress=false", f"run_dir={tmp_path}"]
    assert main([*words, "compare=fair", "baselines=published"]) == 0
    assert "stl" not in fitted and len(fitted) == 14
    found = table_rows(tmp_path / "table.csv")
    assert float(found["ls"]["delta_m"]) == pytest.approx(10) and "stl" not in found


@pytest.mark.parametrize("form", ["folder", "table"])
@pytest.mark.parametrize("words", [["compare=alpha"], ["method=ls"]])
def test_given_baselines_are_the_reference_and_a_row(form, words, fitted, tmp_path):
    write_single_tasks(tmp_path / "old")
    path = tmp_path / "old"
    if form == "table":
        path = tmp_path / "old.csv"
        path.write_text("method,ink,left,right\nls,1,2,3\nstl,2,100,40\n")
    assert main([*TINY, *words, f"baselines={path}", f"run_dir={tmp_path / 'r'}"]) == 0
    assert "stl" not in fitted
    found = table_rows(tmp_path / "r/table.csv")
    row = found.pop("stl")
    assert float(row["left"]) == 100 and float(row["delta_m"]) == 0 and row["mr"] == ""
    # One metric of three is 20 % worse.
    assert all(float(one["delta_m"]) == pytest.approx(20 / 3) for one in found.values())


def test_a_search_with_given_baselines_trains_no_single_task(fitted, tmp_path, capsys):
    write_single_tasks(tmp_path / "old")
    words = ["compare=search", "search.coarse=[1,2]", "search.radius=0"]
    words += [f"baselines={tmp_path / 'old'}", f"run_dir={tmp_path / 'r'}"]
    assert main([*TINY, *words]) == 0
    assert fitted == ["fairgrad", "fairgrad"]
    assert f"results of {tmp_path / 'old'}" in capsys.readouterr().out


def test_one_method_may_train_its_baselines(fitted, tmp_path):
    assert main([*TINY, "method=ls", "baselines=train", f"run_dir={tmp_path}"]) == 0
    assert fitted == ["stl"] * 3 + ["ls"]


def damaged(kind, root):
    write_single_tasks(root)
    if kind == "a task is missing":
        (root / "stl-1/seed-0/outcome.json").unlink()
    if kind == "a result lacks its metric":
        path = root / "stl-0/seed-0/outcome.json"
        path.write_text(path.read_text().replace('"left"', '"other"'))
    if kind == "zero":
        (root / "table.csv").write_text("method,ink,left,right\nstl,0,1,2\n")
        return root / "table.csv"
    if kind == "a metric is missing":
        (root / "table.csv").write_text("method,ink,left\nstl,1,1\n")
        return root / "table.csv"
    if kind == "not a table":
        (root / "table.csv").write_bytes(bytes(range(256)))
        return root / "table.csv"
    if kind == "no fits":
        (root / "empty").mkdir()
        return root / "empty"
    return root


@pytest.mark.parametrize(
    "kind",
    [
        "a task is missing",
        "a result lacks its metric",
        "zero",
        "a metric is missing",
        "not a table",
        "no fits",
        "other",
    ],
)
def test_baselines_that_do_not_fit_are_refused_before_a_fit(kind, fitted, tmp_path, capsys):
    path = damaged(kind, tmp_path / "old")
    words = [*TINY, "method=ls", f"baselines={path}", f"run_dir={tmp_path / 'r'}"]
    if kind == "other":
        words.append("benchmark.pairs=9")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"baselines={path}" in error and error.count("\n") == 1 and not fitted


@pytest.mark.parametrize("value", ["published", "/nowhere/at/all"])
def test_impossible_baselines_are_refused_before_anything_starts(value, tmp_path):
    composed = OmegaConf.structured(SupervisedConfig(baselines=value))
    with pytest.raises(ValueError) as caught:
        from_hydra(composed)
    check_refusal(caught.value, "baselines", value)
