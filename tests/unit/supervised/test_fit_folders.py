"""Which supervised fits a report takes for which: pooling, what is unfinished, and what is refused."""

import json

import pytest

from mtrl_fairgrad.report import main
from tests.unit.supervised.fit_files import line, put, question


def test_seeds_of_several_runs_are_pooled_and_other_options_are_not(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "a/ls/seed-0", question("cityscapes", "ls", 0), 1.1)
    put(tmp_path / "b/ls/seed-1", question("cityscapes", "ls", 1), 1.3)
    put(tmp_path / "c/ls/seed-0", question("cityscapes", "ls", 0, epochs=3), 1.6)
    assert main(["a", "b", "c", "a/ls"]) == 0
    out = capsys.readouterr().out
    assert line(out, "ls", "(epochs=200)", "ours,", "2", "seeds").endswith("20.00 ± 10.00")
    assert line(out, "ls", "(epochs=3)", "ours,", "1", "seed;", "paper", "–").endswith(" 60.00")
    assert (tmp_path / "report/beside.csv").is_file()
    assert main(["a/ls/seed-0"]) == 0
    assert line(capsys.readouterr().out, "ls", "ours,", "1", "seed").endswith(" 10.00")


def test_the_same_fit_in_two_runs_counts_once_unless_they_differ(tmp_path, capsys):
    for name, factor in (("a", 1.1), ("b", 1.1), ("c", 1.2)):
        put(tmp_path / name / "ls/seed-0", question("cityscapes", "ls", 0), factor)
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert main([a, b, "--out", str(tmp_path / "out")]) == 0
    assert line(capsys.readouterr().out, "ls", "ours,", "1", "seed").endswith(" 10.00")
    assert main([a, c, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "a/ls/seed-0" in error and "c/ls/seed-0" in error and "differ" in error


def test_unfinished_fits_are_left_out_and_named(tmp_path, capsys):
    put(tmp_path / "ls/seed-0", question("cityscapes", "ls", 0), 1.1)
    put(tmp_path / "ls/seed-1", question("cityscapes", "ls", 1))
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert line(out, "ls", "ours,", "1", "seed").endswith(" 10.00")
    assert f"Left out, because not finished: {tmp_path / 'ls/seed-1'}." in out


def test_a_run_of_training_is_never_taken_for_a_supervised_one(make, tmp_path, capsys):
    run = make("rl")
    put(run / "ls/seed-0", question("cityscapes", "ls", 0), 1.1)
    assert main([str(run)]) == 0
    assert "report.csv" in capsys.readouterr().out and not (run / "beside.csv").exists()
    put(tmp_path / "supervised/ls/seed-0", question("cityscapes", "ls", 0), 1.1)
    assert main([str(run), str(tmp_path / "supervised")]) == 2
    error = capsys.readouterr().err
    assert (
        error.endswith("a training run: report on one kind at a time.\n") and error.count("\n") == 1
    )


def spoil(folder, file, text):
    put(folder / "ls/seed-0", question("cityscapes", "ls", 0), 1.1)
    (folder / "ls/seed-0" / file).write_text(text)


WRONG = {
    "empty": (lambda folder: folder.mkdir(), "holds no run"),
    "unfinished": (
        lambda folder: put(folder / "ls/seed-0", question("qm9", "ls", 0)),
        "no fit here is finished yet",
    ),
    "one task": (
        lambda folder: put(folder / "stl-0/seed-0", question("qm9", "stl", 0), 1.0),
        "no row is complete: stl is left out for seed 0, which does not have all 11 tasks yet.",
    ),
    "benchmarks": (
        lambda folder: (
            put(folder / "ls/seed-0", question("qm9", "ls", 0), 1.0),
            put(folder / "uw/seed-0", question("celeba", "uw", 0), 1.0),
        ),
        "uw/seed-0 of celeba: report on one benchmark at a time.",
    ),
    "no json": (lambda folder: spoil(folder, "outcome.json", "{"), "outcome.json cannot be read"),
    "no metric": (
        lambda folder: spoil(
            folder, "outcome.json", '{"metrics": {}, "validation": {}, "seconds_per_epoch": 1}'
        ),
        "outcome.json lacks miou: delete",
    ),
    "no question": (
        lambda folder: spoil(folder, "fit.json", "[]"),
        "it is no mapping of plain values",
    ),
    "another program's": (
        lambda folder: spoil(
            folder,
            "fit.json",
            json.dumps(question("cityscapes", "ls", 0) | {"benchmark": {"name": "mnist"}}),
        ),
        "benchmark=mnist is unknown",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence(case, tmp_path, capsys):
    make, said = WRONG[case]
    make(tmp_path / "run")
    assert main([str(tmp_path / "run")]) == 2
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    assert not (tmp_path / "run/beside.csv").exists()
