"""A batch whose loss is exactly 0 does not end a fit, whatever the method."""

import json

import pytest

from mtrl_fairgrad.supervised.__main__ import main
from mtrl_fairgrad.supervised.benchmarks.digits import Digits
from mtrl_fairgrad.weighting import make_method, method_names

NEED = [name for name in method_names() if make_method(name).needs_positive_losses]
CASES = [
    *([f"method={name}"] for name in NEED),
    ["method=mgda", "method.normalize=loss"],
    *(["method=fairgrad", f"loss_alpha={alpha}"] for alpha in (0.5,)),
    ["method=famo", "method.min_loss=[0,-1,-0.5]"],
]


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_a_fit_goes_on(words, tmp_path, monkeypatch):
    losses, calls = Digits.losses, []

    def sometimes_zero(self, outputs, batch):
        left, right, ink = losses(self, outputs, batch)
        calls.append(None)
        return [left if len(calls) % 2 else left * 0, right, ink]

    monkeypatch.setattr(Digits, "losses", sometimes_zero)
    small = ["benchmark.pairs=64", "benchmark.width=1", "epochs=2", "batch_size=32"]
    others = ["progress=false", "threads=1", f"run_dir={tmp_path}"]
    assert main([*small, *others, *words]) == 0
    name = words[0].removeprefix("method=")
    found = json.loads((tmp_path / f"{name}/seed-0/outcome.json").read_text())
    assert all(isinstance(value, float) for value in found["metrics"].values())
