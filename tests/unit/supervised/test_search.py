"""The search for FairGrad's α: values tried, selection, and that no fit is repeated."""

import csv
import shlex

import pytest
import torch
import yaml

from mtrl_fairgrad.config.alpha_grid import best_alpha, next_alphas
from mtrl_fairgrad.config.groups import config_dir
from mtrl_fairgrad.config.schema import ConfigError
from mtrl_fairgrad.supervised.__main__ import main
from mtrl_fairgrad.supervised.benchmarks.digits import Digits
from mtrl_fairgrad.supervised.benchmarks.nyuv2 import NYUv2
from mtrl_fairgrad.supervised.compare import FitRunner, RowSpec, alpha_spec
from mtrl_fairgrad.supervised.config import SearchConfig, SupervisedConfig
from mtrl_fairgrad.supervised.fit_folder import FitFolder, FitResult
from mtrl_fairgrad.supervised.result_table import ResultRow
from mtrl_fairgrad.supervised.search import search
from mtrl_fairgrad.supervised.trainer import Trainer
from mtrl_fairgrad.utils.faults import TrainingFault

TINY = [
    "benchmark.pairs=200",
    "benchmark.width=2",
    "epochs=1",
    "progress=false",
    "threads=1",
    "compare=search",
]
SMALL = ["search.coarse=[1,2]", "search.step=0.5", "search.radius=0.5", "learning_rate=0.01"]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_folders_are_named_by_short_numbers():
    [_, up, *_] = next_alphas({1.0: 0.0}, SearchConfig(coarse=[1.0]))
    assert alpha_spec({"name": "fairgrad"}, up).folder == "fairgrad α=1.1"
    assert alpha_spec({"name": "fairgrad"}, 2.0).folder == "fairgrad α=2"


# ---- selection ----


class FakeRunner(FitRunner):
    """A runner whose results are a function of α; `asked` lists the labels."""

    def __init__(self, benchmark, folder, result, **search):
        options = SearchConfig(**search)
        config = SupervisedConfig(compare="search", search=options, progress=False)
        super().__init__(config, benchmark, folder, torch.device("cpu"))
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "result", result)

    def results(self, row: RowSpec):
        self.asked.append(row.label)
        return self.result(row.method.get("alpha"))


def digits(left, right=50.0, ink=2.0):
    return {"left": left, "right": right, "ink": ink}


def test_validation_selects_and_test_is_only_reported(tmp_path):
    def result(alpha):
        if alpha is None:
            return (FitResult(digits(80.0), digits(40.0), 1.0),) * 2
        validation, test = 40 - abs(alpha - 2.1), 80 - abs(alpha - 5)
        return tuple(FitResult(digits(test + s), digits(validation + s), 1.0) for s in (-1, 1))

    runner = FakeRunner(Digits(), tmp_path, result, radius=0.2)
    findings = search(runner)
    assert runner.asked[:7] == ["stl"] * 3 + [f"fairgrad α={alpha}" for alpha in (1, 2, 5, 10)]
    assert best_alpha(findings.scores()) == 2.1
    found = {float(row["alpha"]): row for row in rows(tmp_path / "search.csv")}
    assert list(found) == sorted(found) and {1.9, 2.0, 2.1, 2.2, 2.3} < set(found)
    assert [alpha for alpha, row in found.items() if row["best"] == "1"] == [2.1]
    # One of three metrics is 1.1 of 40 worse, two are as good; seeds differ by 2 of 40 in that one.
    assert float(found[1]["validation_delta_m"]) == pytest.approx(100 * 1.1 / 40 / 3)
    assert float(found[1]["validation_delta_m_stderr"]) == pytest.approx(100 * 1 / 40 / 3)
    assert float(found[1]["delta_m"]) == pytest.approx(100 * 4 / 80 / 3)
    text = findings.text()
    assert "single-task results of this folder" in text and "are the same" not in text
    [line] = [line for line in text.splitlines() if line.endswith("best")]
    assert line.split() == ["2.1", "0.00", "±", "0.83", "1.21", "±", "0.42", "best"]


def test_with_the_papers_baseline_no_single_tasks_are_trained(tmp_path):
    def result(alpha):
        worse = 1 + abs(alpha - 1) / 100
        values = {
            m.name: NYUv2.baseline[m.name] * (1 / worse if m.higher_is_better else worse)
            for m in NYUv2.metrics
        }
        return (FitResult(values, values, 1.0),)

    runner = FakeRunner(NYUv2(), tmp_path, result, coarse=[1.0, 2.0], radius=0.1)
    findings = search(runner)
    assert runner.asked == [f"fairgrad α={alpha}" for alpha in (1, 2, 0.9, 1.1)]
    assert findings.scores()[1] == pytest.approx(0, abs=1e-9) and findings.scores()[
        2
    ] == pytest.approx(1, rel=0.01)
    assert (
        "the paper's single-task row" in findings.text()
        and "test data are the same here" in findings.text()
    )


def test_an_alpha_that_diverges_is_excluded(tmp_path, capsys):
    def result(alpha):
        if alpha is not None and alpha >= 2:
            raise TrainingFault("in epoch 3 the loss of ink is not finite.")
        return (FitResult(digits(80.0), digits(40.0 - (alpha or 0)), 1.0),)

    findings = search(FakeRunner(Digits(), tmp_path, result, radius=0.1))
    assert best_alpha(findings.scores()) == 0.1
    error = capsys.readouterr().err
    assert "α=10 " in error and "in epoch 3 the loss of ink" in error
    [row] = [row for row in rows(tmp_path / "search.csv") if row["alpha"] == "10.0"]
    assert (row["seeds"], row["validation_delta_m"], row["delta_m"], row["best"]) == (
        "0",
        "",
        "",
        "0",
    )
    with pytest.raises(TrainingFault, match=r"search.coarse=\[2.0, 5.0\]"):
        search(FakeRunner(Digits(), tmp_path, result, coarse=[2.0, 5.0]))


def test_single_tasks_that_learn_nothing_allow_no_search(tmp_path):
    runner = FakeRunner(
        Digits(), tmp_path, lambda alpha: (FitResult(digits(80.0), digits(0.0), 1.0),)
    )
    with pytest.raises(ConfigError, match="left=0"):
        search(runner)
    assert set(runner.asked) == {"stl"}


# ---- the command ----


def test_an_interrupted_search_continues_and_repeats_no_fit(tmp_path, capsys, monkeypatch):
    run, fitted = Trainer.run, []

    def counted(trainer, progress):
        if len(fitted) == limit:
            raise KeyboardInterrupt
        fitted.append(trainer.folder.path)
        return run(trainer, progress)

    monkeypatch.setattr(Trainer, "run", counted)
    words, limit = [*TINY, *SMALL, "seeds=[0,1]", f"run_dir={tmp_path / 'r'}"], 9
    assert main(words) == 130
    assert f"run_dir={tmp_path / 'r'}" in capsys.readouterr().err
    assert [row["alpha"] for row in rows(tmp_path / "r/search.csv")] == [
        "1.0"
    ]  # six of tasks, two of 1, one of 2
    assert [row["method"] for row in rows(tmp_path / "r/table.csv")] == ["stl", "fairgrad α=1"]
    limit = None
    assert main(words) == 0
    alphas = [row["alpha"] for row in rows(tmp_path / "r/search.csv")]
    assert len(fitted) == len(set(fitted)) == 6 + 2 * len(alphas) and len(alphas) >= 3
    output = capsys.readouterr().out
    before = (tmp_path / "r/search.csv").read_text()
    assert main(words) == 0 and len(fitted) == 6 + 2 * len(alphas)
    assert capsys.readouterr().out == output and (tmp_path / "r/search.csv").read_text() == before


def test_the_printed_command_trains_with_the_best_alpha(tmp_path, capsys):
    words = [
        *TINY,
        *SMALL,
        "method.solver=sgd",
        "method.sgd_steps=3",
        "convention=official_supervised",
    ]
    assert main([*words, f"run_dir={tmp_path / 'r'}"]) == 0
    [best] = [row["alpha"] for row in rows(tmp_path / "r/search.csv") if row["best"] == "1"]
    [sentence] = [
        line for line in capsys.readouterr().out.splitlines() if "has the lowest validation" in line
    ]
    assert sentence.startswith(f"α={float(best):g} ")
    python, flag, module, *given = shlex.split(sentence.partition(": ")[2])
    assert (python, flag, module) == ("python", "-m", "mtrl_fairgrad.supervised")
    assert not any(word.startswith(("compare", "search", "run_dir")) for word in given)
    assert main([*given, f"run_dir={tmp_path / 'new'}"]) == 0
    searched, new = (
        FitFolder.open(tmp_path / path / "seed-0").config
        for path in (f"r/fairgrad α={float(best):g}", "new/fairgrad")
    )
    assert searched == new and new["method"]["solver"] == "sgd" and new["method"]["sgd_steps"] == 3


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["method=pcgrad"], ["method=pcgrad", "compare=search"]),
        (["alpha=2"], ["alpha=2", "compare=search"]),
        (["method.alpha=3"], ["alpha=3", "compare=search"]),
        (["search.coarse=[]"], ["search.coarse=[]"]),
        (["search.coarse=[2,2.0]"], ["search.coarse=[2.0, 2.0]"]),
        (["search.coarse=[0,1]"], ["search.coarse=0.0"]),
        (["search.step=0"], ["search.step=0.0"]),
        (["search.radius=0.05"], ["search.radius=0.05"]),
        (["search.radius=inf"], ["search.radius=inf"]),
        (["compare=alpha", "search.radius=1"], ["search", "compare=search"]),
        (["search.width=1"], ["search.width"]),
    ],
)
def test_a_mistake_is_one_sentence(words, parts, tmp_path, capsys):
    assert main([*TINY, *words, f"run_dir={tmp_path / 'r'}"]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert error.count("\n") == 1 and not (tmp_path / "r").exists()


def test_the_file_holds_the_defaults():
    options = yaml.safe_load((config_dir() / "supervised.yaml").read_text())["search"]
    assert SearchConfig(**options) == SearchConfig()


def test_rows_have_means_of_both_parts():
    row = ResultRow(
        "ls",
        (FitResult(digits(80.0), digits(40.0), 1.0), FitResult(digits(90.0), digits(60.0), 1.0)),
    )
    assert row.mean()["left"] == 85 and row.mean("validation")["left"] == 50
