"""Write folders of supervised fits by hand, and read what reports print of them."""

import csv
import json
from dataclasses import asdict

from mtrl_fairgrad.supervised.benchmarks import benchmark_class
from mtrl_fairgrad.supervised.fit_folder import FitFolder, FitResult
from mtrl_fairgrad.weighting import method_options

PLAIN = {"own": "plain", "scale": "none", "max_norm": None}
OFFICIAL = {"own": "weighted_losses", "scale": "tasks", "max_norm": 1.0}


def fit_config(
    benchmark, method, seed, epochs=None, convention=PLAIN, loss_alpha=None, amp=False, **chosen
):
    schedule = asdict(benchmark_class(benchmark)().schedule)
    return {
        "benchmark": {"name": benchmark},
        "method": {"name": method, **method_options(method), **chosen},
        "loss_alpha": loss_alpha,
        "convention": convention,
        "schedule": schedule if epochs is None else {**schedule, "epochs": epochs},
        "amp": amp,
        "seed": seed,
    }


def write_fit(path, config, factor=None, validation=None, version_0_1=False):
    """Write a fit's folder.

    Args:
        path: of the folder.
        config: made by `fit_config`.
        factor: how much worse than the baseline its metrics are; None: the fit is unfinished.
        validation: the same for the validation metrics; None: as `factor`.
        version_0_1: write fit.json, as version 0.1.0 did.
    """
    if version_0_1:
        path.mkdir(parents=True)
        (path / "fit.json").write_text(json.dumps(config))
        folder = FitFolder.open(path)
    else:
        folder = FitFolder.create(path, config, {})
    if factor is not None:
        name = config["benchmark"]["name"]
        on_validation = metrics(name, factor if validation is None else validation)
        folder.save_result(FitResult(metrics(name, factor), on_validation, 1.0))


def metrics(benchmark, factor):
    found = benchmark_class(benchmark)
    baseline = found.baseline or {metric.name: 10.0 for metric in found.metrics}
    return {
        m.name: baseline[m.name] * ((2 - factor) if m.higher_is_better else factor)
        for m in found.metrics
    }


def line(out, *start):
    """The rest of the line that starts with these words, with single spaces between its words."""
    [found] = [
        words for words in map(str.split, out.splitlines()) if words[: len(start)] == [*start]
    ]
    return " ".join(found[len(start) :])


def table(folder):
    """(table, method, our label, metric) → row of paper_comparison.csv."""
    with (folder / "paper_comparison.csv").open() as file:
        return {
            (row["table"], row["method"], row["ours"], row["metric"]): row
            for row in csv.DictReader(file)
        }


def table_rows(path):
    """Rows of a table.csv: method -> row."""
    with path.open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}
