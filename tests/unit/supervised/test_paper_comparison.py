"""Supervised runs and the paper's tables: names and units, matching, and numbers by hand."""

import numpy as np
import pytest
import torch

from mtrl_fairgrad.analysis.paper_tables import paper_table
from mtrl_fairgrad.report import main
from mtrl_fairgrad.supervised.benchmarks import benchmark_class
from mtrl_fairgrad.supervised.benchmarks.qm9 import PROPERTIES
from mtrl_fairgrad.supervised.paper_deviations import METHOD_DIFFERENCES
from mtrl_fairgrad.supervised.paper_numbers import SUMMARIES, TABLES, published_table
from tests.unit.supervised.fit_files import OFFICIAL, PLAIN, fit_config, line, table, write_fit

# ---- names and units ----


@pytest.mark.parametrize("name", TABLES)
def test_every_metric_is_its_column(name):
    benchmark, paper = benchmark_class(name), published_table(name)
    known = {metric.name: metric for metric in paper_table(TABLES[name]).metrics}
    if name == "celeba":  # 40 attributes, of which the paper prints summaries
        assert set(paper.rows["fairgrad"]) == set(SUMMARIES) and paper.metrics == ()
        return
    assert [metric.name for metric in benchmark.metrics] == list(known)
    for metric in benchmark.metrics:
        assert metric.higher_is_better == known[metric.name].higher_is_better
        # As printed, up to the two digits more that the official code has of QM9.
        assert float(paper.rows["stl"][metric.name]) == pytest.approx(
            benchmark.baseline[metric.name], rel=5e-3
        )


def test_units_of_scenes_are_those_of_the_paper():
    """Half the pixels right, 60 ° off in half of them, depth too large by a quarter."""
    benchmark = benchmark_class("nyuv2")()
    labels = torch.tensor([[[0, 1, 0, 1]]])
    logits = torch.zeros(1, 13, 1, 4)
    logits[:, 0] = 1
    depth = torch.full((1, 1, 1, 4), 2.0)
    normals = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).repeat(1, 1, 1, 4)
    guess = normals.clone()
    guess[..., 2:] = torch.tensor([3**0.5 / 2, 0.0, 0.5]).view(1, 3, 1, 1)
    meter = benchmark.meter()
    meter.update((logits, 1.25 * depth, guess), (None, labels, depth, normals))
    found = meter.values()
    units = {metric.name: metric.unit for metric in paper_table("table2").metrics}
    expected = {
        "pixel_accuracy": (50, "%"),
        "miou": (25, "%"),
        "abs_error": (0.5, "unit of the data"),
        "rel_error": (0.25, "1"),
    }
    expected |= {"angle_mean": (30, "degree"), "within_11": (50, "%"), "within_30": (50, "%")}
    for name, (value, unit) in expected.items():
        assert (found[name], units[name]) == (pytest.approx(value, abs=1e-2), unit), name


def test_units_of_molecules_are_those_of_the_paper():
    """Errors of 0.01 in the data's units: eV for energies, which the paper has in meV."""
    meter = benchmark_class("qm9")().meter()
    zeros = torch.zeros(2, len(PROPERTIES))
    meter.update(tuple(zeros.T), (None, zeros + 1, torch.full((len(PROPERTIES),), 0.01)))
    units = {metric.name: metric.unit for metric in paper_table("table8").metrics}
    for name, value in meter.values().items():
        assert value == pytest.approx(10 if units[name] == "meV" else 0.01), name


# ---- the table ----


def test_both_sides_of_cityscapes_by_hand(tmp_path, capsys):
    run = tmp_path / "run"
    for seed, factor in enumerate((1.0, 1.1, 1.2)):
        write_fit(run / f"ls/seed-{seed}", fit_config("cityscapes", "ls", seed, epochs=5), factor)
    write_fit(run / "upgrad/seed-0", fit_config("cityscapes", "upgrad", 0, epochs=5), 1.5)
    write_fit(run / "famo/seed-0", fit_config("cityscapes", "famo", 0, epochs=5), 0.9)
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    # The paper's single-task row is 74.01 93.16 0.0125 27.77.
    ls = line(out, "ls", "ours,", "3", "seeds")
    assert ls == "66.61 ± 4.27 83.84 ± 5.38 0.0138 ± 0.0007 30.55 ± 1.60 2.00 10.00 ± 5.77"
    below = [
        " ".join(words) for words in map(str.split, out.splitlines()) if words[:1] == ["paper"]
    ]
    assert below[0] == "paper 75.18 93.49 0.0155 46.77 8.50 22.60"
    assert line(out, "famo", "ours,", "1", "seed").endswith("1.00 -10.00")
    assert line(out, "upgrad", "ours,", "1", "seed;", "paper", "–").endswith("– 50.00")
    assert line(out, "fairgrad", "ours", "–;", "paper") == "75.72 93.68 0.0134 32.25 1.50 5.18"
    assert line(out, "stl", "ours", "–;", "paper") == "74.01 93.16 0.0125 27.77 – –"
    assert "Δm% of both is relative to the paper's row stl." in out
    assert "MR: ours among the 2 methods that both have, the paper's among its 14." in out
    both = "keep_last_batch False in place of True, averaging pixels in place of batches"
    assert f"Not as in the paper, for all rows: epochs 5 in place of 200, {both}." in out
    assert "Not as in the paper for upgrad: seeds 1 in place of 3." in out
    assert "for ls" not in out
    plain = "convention plain in place of official"
    assert f"for famo: seeds 1 in place of 3, {plain}." in out
    assert line(out, "fairgrad", "α=10") == "– 10.54"  # Table 5
    fair = out.partition("loss_alpha=0.5, Table 7")[2]
    assert line(fair, "fair", "cagrad", "ours", "–;", "paper") == "74.74 93.39 0.0134 33.04 6.23"
    found = table(run)
    row = found["Table 3", "ls", "ls", "rel_error"]
    assert (
        row["seeds"] == "3"
        and float(row["mean"]) == pytest.approx(27.77 * 1.1)
        and row["paper"] == "46.77"
    )
    assert float(row["stderr"]) == pytest.approx(27.77 * 0.1 / 3**0.5)
    assert found["Table 3", "fairgrad", "", "delta_m"]["paper"] == "5.18"
    assert found["Table 3", "upgrad", "upgrad", "delta_m"]["paper"] == ""
    assert found["Table 3", "ls", "ls", "mr"]["mean"] == "2.0"


def test_fairgrad_by_alpha_is_matched_with_table_5_and_the_best_by_validation_with_table_2(
    tmp_path, capsys
):
    asked = {"convention": OFFICIAL, "solver": "least_squares"}
    for alpha, test, validation in ((2.0, 0.9, 1.3), (2.3, 1.1, 1.2), (10.0, 1.2, 1.4)):
        for seed in range(3):
            path = tmp_path / f"run/fairgrad α={alpha:g}/seed-{seed}"
            write_fit(
                path, fit_config("nyuv2", "fairgrad", seed, alpha=alpha, **asked), test, validation
            )
    fair = fit_config("nyuv2", "fairgrad", 0, alpha=2.0, loss_alpha=0.5, **asked)
    write_fit(tmp_path / "run/fair/seed-0", fair, 0.5)
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert line(out, "fairgrad", "α=2.3", "ours,", "3", "seeds").endswith("– 10.00 ± 0.00")
    assert line(out, "fairgrad", "α=2", "ours,", "3", "seeds;", "paper", "–").endswith(
        "– -10.00 ± 0.00"
    )
    assert line(out, "fair", "fairgrad", "α=2", "ours,", "1", "seed;", "paper", "–").endswith(
        " -50.00"
    )
    assert (
        "Of our rows of fairgrad, the best by validation stands with the paper's: fairgrad α=2.3."
        in out
    )
    below = out.partition("FairGrad by α")[2]
    by_alpha = [
        " ".join(words[1:])
        for words in map(str.split, below.splitlines())
        if words[:1] == ["fairgrad"]
    ]
    assert by_alpha == [
        "α=1 – -2.79",
        "α=2 -10.00 ± 0.00 -4.96",
        "α=2.3 10.00 ± 0.00 –",
        "α=5 – -3.03",
        "α=10 20.00 ± 0.00 -1.00",
    ]
    found = table(tmp_path / "out")
    assert found["Table 2", "fairgrad", "fairgrad α=2.3", "delta_m"]["paper"] == "-4.66"
    assert found["Table 5", "fairgrad α=10", "fairgrad α=10", "delta_m"]["paper"] == "-1.00"
    assert "Not as in the paper for fair fairgrad α=2: seeds 1 in place of 3." in out
    assert out.count("Not as in the paper for") == 1


def test_methods_on_alpha_fair_losses_are_matched_with_table_7(tmp_path, capsys):
    for loss_alpha, factor in ((None, 1.3), (0.5, 1.2), (0.25, 1.1)):
        for seed in range(3):
            config = fit_config("cityscapes", "mgda", seed, loss_alpha=loss_alpha)
            write_fit(tmp_path / f"run/mgda {loss_alpha}/seed-{seed}", config, factor)
    assert main([str(tmp_path / "run")]) == 0
    plain, _, fair = capsys.readouterr().out.partition("loss_alpha=0.5, Table 7")
    assert line(plain, "mgda", "ours,", "3", "seeds").endswith("– 30.00 ± 0.00")
    # Another loss_alpha is not the paper's.
    assert line(plain, "fair", "mgda", "(loss_alpha=0.25)", "ours,", "3", "seeds;", "paper", "–")
    ours = line(fair, "fair", "mgda", "(loss_alpha=0.5)", "ours,", "3", "seeds")
    assert ours.endswith("20.00 ± 0.00")
    assert line(fair, "paper", "74.45") == "93.50 0.0131 37.64 9.91"
    assert "on α-fair losses Table 7" in fair and "Of our rows" not in fair
    found = table(tmp_path / "run")
    row = found["Table 7", "fair mgda", "fair mgda (loss_alpha=0.5)", "delta_m"]
    assert row["paper"] == "9.91" and float(row["mean"]) == pytest.approx(20)
    assert found["Table 7", "fair ls", "", "abs_error"]["paper"] == "0.0137"
    assert ("Table 7", "fair ls", "", "mr") not in found


def test_single_task_fits_make_one_row(tmp_path, capsys):
    for task, factor in enumerate((1.0, 1.2)):
        for seed in (0, 1):
            write_fit(
                tmp_path / f"stl-{task}/seed-{seed}",
                fit_config("cityscapes", "stl", seed, task=task),
                factor,
            )
    write_fit(tmp_path / "stl-0/seed-2", fit_config("cityscapes", "stl", 2, task=0), 1.0)
    write_fit(tmp_path / "ls/seed-0", fit_config("cityscapes", "ls", 0), 1.1)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    numbers = "74.01 ± 0.00 93.16 ± 0.00 0.0150 ± 0.0000 33.32 ± 0.00 – 10.00 ± 0.00"
    assert line(out, "stl", "ours,", "2", "seeds") == numbers
    assert "MR: " not in out  # single tasks are not ranked, and one method has no rank
    assert "stl is left out for seed 2, which does not have all 2 tasks yet." in out


def test_nothing_differs_where_every_option_is_that_of_the_papers_code(tmp_path, capsys):
    for seed in range(3):
        config = fit_config("qm9", "famo", seed, convention={**PLAIN, "own": "weighted"})
        config["method"]["gamma"] = 0.001
        config["benchmark"]["standardise"] = "all"
        config["schedule"] |= {"keep_last_batch": True, "plateau_threshold": 1e-4}
        write_fit(tmp_path / f"famo/seed-{seed}", config, 1.5)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Number of seeds, schedule and options are the paper's." in out
    assert "Not as in the paper" not in out


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("method", "gamma", 0.01, "gamma 0.01 in place of 0.001"),
        ("method", "learning_rate", 0.1, "learning_rate 0.1 in place of 0.025"),
        ("benchmark", "standardise", "none", "standardise none in place of all"),
        ("schedule", "plateau_threshold", None, "plateau_threshold 0.0 in place of 0.0001"),
        ("schedule", "keep_last_batch", None, "keep_last_batch False in place of True"),
        ("schedule", "batch_size", 60, "batch_size 60 in place of 120"),
    ],
)
def test_one_option_that_is_not_the_papers_is_the_one_that_is_named(
    part, key, value, words, tmp_path, capsys
):
    for seed in range(3):
        config = fit_config("qm9", "famo", seed, convention={**PLAIN, "own": "weighted"})
        config["method"]["gamma"] = 0.001
        config["benchmark"]["standardise"] = "all"
        config["schedule"] |= {"keep_last_batch": True, "plateau_threshold": 1e-4}
        config[part][key] = value
        write_fit(tmp_path / f"famo/seed-{seed}", config, 1.5)
    assert main([str(tmp_path)]) == 0
    assert f"Not as in the paper: {words}." in capsys.readouterr().out


@pytest.mark.parametrize("method", ["mgda", "nash_mtl", "cagrad", "dwa", "uw", "moco"])
def test_differences_that_no_option_changes_are_stated(method, tmp_path, capsys):
    write_fit(tmp_path / "fit/seed-0", fit_config("cityscapes", method, 0), 1.5)
    assert main([str(tmp_path)]) == 0
    [(name, ours, paper)] = METHOD_DIFFERENCES[method]
    assert f"{name} {ours} in place of {paper}" in capsys.readouterr().out


CONVENTIONS_OF_ONE_EFFECT = [
    ("ls", {}, PLAIN),
    ("ls", {"reduction": "mean"}, {**PLAIN, "scale": "tasks"}),
    ("si", {}, {**PLAIN, "own": "weighted_losses"}),
    ("fairgrad", {"solver": "least_squares"}, {**OFFICIAL, "own": "plain"}),
    ("pcgrad", {"reduction": "mean"}, OFFICIAL),
    ("graddrop", {}, {**PLAIN, "own": "weighted", "max_norm": 1.0}),
]
CONVENTIONS_OF_ANOTHER = [
    ("ls", {"reduction": "mean"}, PLAIN),
    ("si", {}, PLAIN),
    ("pcgrad", {}, OFFICIAL),
    ("mgda", {}, {**PLAIN, "own": "weighted"}),
    ("dwa", {}, {**PLAIN, "own": "weighted"}),
]


@pytest.mark.parametrize(
    ("method", "chosen", "convention", "same"),
    [(*case, True) for case in CONVENTIONS_OF_ONE_EFFECT]
    + [(*case, False) for case in CONVENTIONS_OF_ANOTHER],
)
def test_a_convention_is_named_where_its_gradients_are_not_the_official_ones(
    method, chosen, convention, same, tmp_path, capsys
):
    config = fit_config("nyuv2", method, 0, convention=convention, **chosen)
    write_fit(tmp_path / "fit/seed-0", config, 1.1)
    assert main([str(tmp_path)]) == 0
    assert ("in place of official" not in capsys.readouterr().out) is same


def test_summaries_of_celeba(tmp_path, capsys):
    write_fit(tmp_path / "ls/seed-0", fit_config("celeba", "ls", 0), 1.1)
    write_fit(tmp_path / "fairgrad/seed-0", fit_config("celeba", "fairgrad", 0), 1.05)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert line(out, "ls", "ours,", "1", "seed") == "2.00 10.00" and "f1_Bald" not in out
    assert line(out, "fairgrad", "α=2", "ours,", "1", "seed") == "1.00 5.00"
    assert line(out, "nash_mtl", "ours", "–;", "paper") == "5.38 2.84"
    assert "single-task F1, which the paper does not print" in out
    solver = "convention plain in place of official, solver newton in place of least_squares."
    assert f"for fairgrad α=2: {solver}" in out
    assert "for all rows: seeds 1 in place of 3, keep_last_batch False in place of True." in out
    bald = table(tmp_path)["Table 1", "ls", "ls", "f1_Bald"]
    assert float(bald["mean"]) == pytest.approx(0.7205613 * 0.9) and bald["paper"] == ""


def test_summaries_of_qm9_refer_to_the_unrounded_baseline(tmp_path, capsys):
    for seed in range(3):
        write_fit(tmp_path / f"famo/seed-{seed}", fit_config("qm9", "famo", seed), 1.5)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert line(out, "famo", "ours,", "3", "seeds").endswith("50.0 ± 0.0") and "MR: " not in out
    assert "which the paper's row stl rounds" in out
    assert "for famo" not in out  # a single row needs no name
    assert "convention plain in place of official, gamma 0.01 in place of 0.001." in out


def test_a_metric_that_is_nan_has_no_summary(tmp_path, capsys):
    for name, factor in (("ls", 1.1), ("si", np.nan), ("uw", 1.2)):
        write_fit(tmp_path / f"{name}/seed-0", fit_config("cityscapes", name, 0), factor)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert line(out, "si", "ours,", "1", "seed") == "nan nan nan nan – –"
    assert line(out, "uw", "ours,", "1", "seed").endswith("2.00 20.00")


def test_digits_are_not_in_the_paper(tmp_path, capsys):
    for task in range(3):
        write_fit(tmp_path / f"stl-{task}/seed-0", fit_config("digits", "stl", 0, task=task), 1.0)
    write_fit(tmp_path / "fairgrad α=2/seed-0", fit_config("digits", "fairgrad", 0), 1.1)
    write_fit(
        tmp_path / "fairgrad α=10/seed-0", fit_config("digits", "fairgrad", 0, alpha=10.0), 1.2
    )
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "The paper has no table of digits." in out
    assert line(out, "fairgrad", "α=2") == "9 9 11 1.00 10.00 –"
    rows = [
        words.split()[0:2] for words in out.splitlines() if words.startswith(("stl", "fairgrad"))
    ]
    assert rows == [["stl", "10"], ["fairgrad", "α=2"], ["fairgrad", "α=10"]]
    assert table(tmp_path)["", "stl", "stl", "ink"]["mean"] == "10.0"


def test_of_the_toy_problem_the_ends_are_printed(tmp_path, capsys):
    rows = ["alpha,start,step,x1,x2,loss1,loss2", "2.0,0,0,9,9,1,1"]
    rows += ["2.0,0,100,3.25,-8.36,0.5,-17", "2.0,1,0,1,1,1,1"]
    (tmp_path / "toy.csv").write_text("\n".join([*rows, ""]))
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert line(out, "2", "0") == "3.25 -8.36 0.5 -17" and "no table of the toy problem" in out
