"""Verification of supervised fits and comparisons."""

import json

import pytest

from mtrl_fairgrad import verify
from mtrl_fairgrad.supervised.__main__ import main

TINY = ["benchmark.pairs=8", "benchmark.width=1", "epochs=2", "progress=false", "threads=1"]


@pytest.fixture
def run(tmp_path):
    assert main([*TINY, "method=ls", "seeds=[0,1]", f"run_dir={tmp_path}"]) == 0
    return tmp_path


def test_a_fit_and_a_run_of_several_verify(run, capsys):
    assert verify.main([str(run / "ls/seed-0")]) == 0
    assert verify.main([str(run)]) == 0
    assert "2 fits" in capsys.readouterr().out


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def alter_result(fit):
    values = json.loads((fit / "outcome.json").read_text())
    values["metrics"]["left"] += 1
    (fit / "outcome.json").write_text(json.dumps(values))


def alter_checkpoint(fit):
    [file] = fit.glob("checkpoints/*/model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("check", "alter"),
    [
        ("configuration", lambda fit: change(fit / "config.yaml", "epochs: 2", "epochs: 3")),
        ("manifest", lambda fit: change(fit / "manifest.json", '"versions"', '"version"')),
        ("checkpoints", alter_checkpoint),
        ("epochs", lambda fit: change(fit / "epochs.csv", "\n1,", "\n1,1")),
        ("epochs", lambda fit: (fit / "epochs.csv").unlink()),
        ("result", alter_result),
        ("result", lambda fit: (fit / "outcome.json").unlink()),
    ],
)
def test_what_was_altered_is_found(check, alter, run, capsys):
    alter(run / "ls/seed-1")
    capsys.readouterr()
    assert verify.main([str(run), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    wrong = {finding["check"]: finding["problems"] for finding in findings if finding["problems"]}
    assert check in wrong and all(
        "seed-1" in problem for part in wrong.values() for problem in part
    )
