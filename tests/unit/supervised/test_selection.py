"""Which epoch a fit reports, and when the learning rate is lowered."""

import csv
import json

import numpy as np
import pytest
import torch

from mtrl_fairgrad.supervised.__main__ import main
from mtrl_fairgrad.supervised.benchmark import seeded_loader, with_last_batch
from mtrl_fairgrad.supervised.benchmarks.celeba import CelebA
from mtrl_fairgrad.supervised.benchmarks.digits import Digits
from mtrl_fairgrad.supervised.benchmarks.nyuv2 import NYUv2
from mtrl_fairgrad.supervised.benchmarks.qm9 import QM9
from mtrl_fairgrad.supervised.trainer import on_plateau

TINY = [
    "benchmark.pairs=200",
    "benchmark.width=2",
    "epochs=5",
    "learning_rate=0.05",
    "progress=false",
    "threads=1",
]


def fitted(tmp_path, *words):
    """Run the one fit of a command line; returns its epochs and its result."""
    assert main([*TINY, *words, f"run_dir={tmp_path}"]) == 0
    [folder] = tmp_path.glob("*/seed-0")
    with (folder / "epochs.csv").open() as file:
        epochs = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return epochs, json.loads((folder / "outcome.json").read_text())


def test_the_epoch_with_the_best_validation_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(Digits, "select_best", True)
    monkeypatch.setattr(Digits, "baseline", {"left": 50.0, "right": 50.0, "ink": 10.0})
    epochs, result = fitted(tmp_path, "method=ls")

    def delta_m(row):
        left, right, ink = (row[f"validation/{name}"] for name in ("left", "right", "ink"))
        return ((50 - left) / 50 + (50 - right) / 50 + (ink - 10) / 10) / 3

    best = min(epochs, key=delta_m)
    assert best is not epochs[-1], "choose another learning rate: the last epoch tells nothing"
    for name, value in result["metrics"].items():
        assert value == pytest.approx(best[f"test/{name}"], rel=1e-12)


def test_a_single_task_fit_is_selected_by_its_own_task(tmp_path, monkeypatch):
    monkeypatch.setattr(Digits, "select_best", True)
    epochs, result = fitted(tmp_path, "method=stl", "method.task=2")
    best = min(epochs, key=lambda row: row["validation/ink"])
    assert result["validation"]["ink"] == best["validation/ink"]
    assert (
        min(epochs, key=lambda row: -row["validation/left"] - row["validation/right"]) is not best
    )


@pytest.mark.parametrize("threshold", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("patience", [0, 1, 5])
def test_the_rate_falls_when_pytorch_s_scheduler_says_so(patience, threshold):
    scores = np.round(
        np.random.default_rng(patience).normal(size=200) / np.arange(1, 201), 3
    ).tolist()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience, threshold=threshold, eps=0
    )
    falls = 0
    for count in range(1, len(scores) + 1):
        scheduler.step(scores[count - 1])
        falls += on_plateau(scores[:count], patience, threshold)
        assert optimizer.param_groups[0]["lr"] == 0.5**falls
    assert falls > 1


def test_the_score_of_all_metrics_is_one_of_delta_m():
    errors = {name: 2 * value for name, value in QM9().baseline.items()}
    assert QM9().delta_m(QM9().score(errors)) == pytest.approx(100)
    same = NYUv2().baseline
    assert NYUv2().delta_m(NYUv2().score(same)) == pytest.approx(0)


def test_the_last_batch_is_kept_on_request_and_the_others_stay():
    loader = seeded_loader(list(range(10)), 4, seed=0, shuffle=True)
    first = [batch.tolist() for batch in loader]
    loader.generator.manual_seed(0)
    kept = [batch.tolist() for batch in with_last_batch(loader)]
    assert kept[:2] == first and sorted(n for batch in kept for n in batch) == [*range(10)]


def test_scores_are_those_of_the_official_code():
    f1 = {name: 0.5 for name in CelebA().baseline}
    assert CelebA().score(f1) == -0.5
    errors = {name: 2 * value for name, value in QM9().baseline.items()}
    assert QM9().score(errors) == pytest.approx(2)
    assert CelebA().select_best and QM9().select_best
