"""Folders of supervised fits, written by hand, and how to read what reports say of them."""

import csv
import json
from dataclasses import asdict

from mtrl_fairgrad.supervised.benchmark import find
from mtrl_fairgrad.weighting import method_options

PLAIN = {"own": "plain", "scale": "none", "max_norm": None}
OFFICIAL = {"own": "weighted_losses", "scale": "tasks", "max_norm": 1.0}


def question(
    benchmark, method, seed, epochs=None, convention=PLAIN, loss_alpha=None, amp=False, **chosen
):
    schedule = asdict(find(benchmark)().schedule)
    return {
        "benchmark": {"name": benchmark},
        "method": {"name": method, **method_options(method), **chosen},
        "loss_alpha": loss_alpha,
        "convention": convention,
        "schedule": schedule if epochs is None else {**schedule, "epochs": epochs},
        "amp": amp,
        "seed": seed,
    }


def put(folder, asked, factor=None, validation=None):
    """A fit's folder; its metrics are the baseline's, worse by a factor; unfinished without one."""
    folder.mkdir(parents=True)
    (folder / "fit.json").write_text(json.dumps(asked))
    if factor is not None:
        parts = {"metrics": factor, "validation": factor if validation is None else validation}
        values = {part: metrics(asked["benchmark"]["name"], size) for part, size in parts.items()}
        (folder / "outcome.json").write_text(json.dumps({**values, "seconds_per_epoch": 1.0}))


def metrics(benchmark, factor):
    found = find(benchmark)
    baseline = found.baseline or {metric.name: 10.0 for metric in found.metrics}
    return {
        m.name: baseline[m.name] * ((2 - factor) if m.higher_is_better else factor)
        for m in found.metrics
    }


def line(out, *start):
    """The rest of the line that starts like this, single spaces between its words."""
    [found] = [
        words for words in map(str.split, out.splitlines()) if words[: len(start)] == [*start]
    ]
    return " ".join(found[len(start) :])


def table(folder):
    with (folder / "beside.csv").open() as file:
        return {
            (row["table"], row["method"], row["ours"], row["metric"]): row
            for row in csv.DictReader(file)
        }
