"""Stored fits in reports: pooling, unfinished fits, and what is refused."""

import json

import pytest

from mtrl_fairgrad.report import main
from mtrl_fairgrad.supervised.fit_folder import FitFolder
from mtrl_fairgrad.supervised.stored_fits import pool_fits, read_fits
from mtrl_fairgrad.utils.atomic_io import RunFolderError
from tests.unit.supervised.fit_files import fit_config, line, write_fit


def test_seeds_of_several_runs_are_pooled_and_other_options_are_not(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_fit(tmp_path / "a/ls/seed-0", fit_config("cityscapes", "ls", 0), 1.1)
    write_fit(tmp_path / "b/ls/seed-1", fit_config("cityscapes", "ls", 1), 1.3)
    write_fit(tmp_path / "c/ls/seed-0", fit_config("cityscapes", "ls", 0, epochs=3), 1.6)
    assert main(["a", "b", "c", "a/ls"]) == 0
    out = capsys.readouterr().out
    assert line(out, "ls", "(epochs=200)", "ours,", "2", "seeds").endswith("20.00 ± 10.00")
    assert line(out, "ls", "(epochs=3)", "ours,", "1", "seed;", "paper", "–").endswith(" 60.00")
    assert (tmp_path / "report/paper_comparison.csv").is_file()
    assert main(["a/ls/seed-0"]) == 0
    assert line(capsys.readouterr().out, "ls", "ours,", "1", "seed").endswith(" 10.00")


def test_the_same_fit_in_two_runs_counts_once_unless_they_differ(tmp_path, capsys):
    for name, factor in (("a", 1.1), ("b", 1.1), ("c", 1.2)):
        write_fit(tmp_path / name / "ls/seed-0", fit_config("cityscapes", "ls", 0), factor)
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert main([a, b, "--out", str(tmp_path / "out")]) == 0
    assert line(capsys.readouterr().out, "ls", "ours,", "1", "seed").endswith(" 10.00")
    assert main([a, c, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "a/ls/seed-0" in error and "c/ls/seed-0" in error and "differ" in error


def test_unfinished_fits_are_left_out_and_named(tmp_path, capsys):
    write_fit(tmp_path / "ls/seed-0", fit_config("cityscapes", "ls", 0), 1.1)
    write_fit(tmp_path / "ls/seed-1", fit_config("cityscapes", "ls", 1))
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert line(out, "ls", "ours,", "1", "seed").endswith(" 10.00")
    assert f"Left out, because not finished: {tmp_path / 'ls/seed-1'}." in out


def test_fits_that_failed_are_named_with_their_cause(tmp_path, capsys):
    write_fit(tmp_path / "ls/seed-0", fit_config("cityscapes", "ls", 0), 1.1)
    write_fit(tmp_path / "uw/seed-0", fit_config("cityscapes", "uw", 0))
    FitFolder.open(tmp_path / "uw/seed-0").save_fault("its loss is NaN: lower it.", "Traceback")
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'uw/seed-0'} failed: its loss is NaN: lower it.\n" in out
    assert "not finished" not in out
    assert main([str(tmp_path / "uw")]) == 2
    error = capsys.readouterr().err
    assert "its loss is NaN: lower it." in error and error.count("\n") == 1


def test_a_fit_that_finished_after_a_failure_is_no_failed_one(tmp_path):
    write_fit(tmp_path / "ls/seed-0", fit_config("cityscapes", "ls", 0), 1.1)
    fit = FitFolder.open(tmp_path / "ls/seed-0")
    fit.save_fault("earlier.", "Traceback")
    assert fit.fault() is None


def test_a_run_of_training_is_never_taken_for_a_supervised_one(make, tmp_path, capsys):
    run = make("rl")
    write_fit(run / "ls/seed-0", fit_config("cityscapes", "ls", 0), 1.1)
    assert main([str(run)]) == 0
    assert "report.csv" in capsys.readouterr().out and not (run / "paper_comparison.csv").exists()
    write_fit(tmp_path / "supervised/ls/seed-0", fit_config("cityscapes", "ls", 0), 1.1)
    assert main([str(run), str(tmp_path / "supervised")]) == 2
    error = capsys.readouterr().err
    assert f"{run} a training run" in error and error.count("\n") == 1


def test_fits_of_version_0_1_are_reported_and_pooled_with_those_of_this_one(tmp_path, capsys):
    config = fit_config("cityscapes", "ls", 0)
    write_fit(tmp_path / "old/ls/seed-0", config, 1.1, version_0_1=True)
    write_fit(tmp_path / "new/ls/seed-1", {**config, "seed": 1}, 1.3)
    write_fit(tmp_path / "new/ls/seed-2", {**config, "seed": 2}, version_0_1=True)
    out = tmp_path / "out"
    assert main([str(tmp_path / "old"), str(tmp_path / "new"), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert line(shown, "ls", "ours,", "2", "seeds").endswith("20.00 ± 10.00")
    assert f"not finished: {tmp_path / 'new/ls/seed-2'}." in shown


def damage(folder, file, text, **version):
    write_fit(folder / "ls/seed-0", fit_config("cityscapes", "ls", 0), 1.1, **version)
    (folder / "ls/seed-0" / file).write_text(text)


UNKNOWN = {**fit_config("cityscapes", "ls", 0), "benchmark": {"name": "mnist"}}
LISTED = {**UNKNOWN, "method": {"name": "fairgrad", "alpha": [1]}}
REFUSED = {
    "empty": (lambda folder: folder.mkdir(), ["holds no run"]),
    "unfinished": (
        lambda folder: write_fit(folder / "ls/seed-0", fit_config("qm9", "ls", 0)),
        ["no fit here is finished"],
    ),
    "one task": (
        lambda folder: write_fit(folder / "stl-0/seed-0", fit_config("qm9", "stl", 0), 1.0),
        ["no row is complete", "stl", "seed 0", "11 tasks"],
    ),
    "benchmarks": (
        lambda folder: (
            write_fit(folder / "ls/seed-0", fit_config("qm9", "ls", 0), 1.0),
            write_fit(folder / "uw/seed-0", fit_config("celeba", "uw", 0), 1.0),
        ),
        ["uw/seed-0 of celeba", "one benchmark at a time"],
    ),
    "no json": (lambda folder: damage(folder, "outcome.json", "{"), ["outcome.json is damaged"]),
    "no metrics": (
        lambda folder: damage(folder, "outcome.json", '{"validation": {}, "seconds_per_epoch": 1}'),
        ["outcome.json lacks metrics"],
    ),
    "no metric": (
        lambda folder: damage(
            folder, "outcome.json", '{"metrics": {}, "validation": {}, "seconds_per_epoch": 1}'
        ),
        ["ls/seed-0 lacks miou"],
    ),
    "no mapping": (
        lambda folder: damage(folder, "fit.json", "[]", version_0_1=True),
        ["fit.json is damaged"],
    ),
    "no seed": (
        lambda folder: damage(folder, "config.yaml", "benchmark: {name: cityscapes}"),
        ["config.yaml lacks method", "seed"],
    ),
    "no number": (
        lambda folder: damage(folder, "fit.json", json.dumps(LISTED), version_0_1=True),
        ["fit.json is damaged", "method.alpha"],
    ),
    "a link to itself": (lambda folder: folder.symlink_to(folder), ["holds no run"]),
    "unknown benchmark": (
        lambda folder: damage(folder, "fit.json", json.dumps(UNKNOWN), version_0_1=True),
        ["benchmark=mnist"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_sentence(case, tmp_path, capsys):
    write, parts = REFUSED[case]
    write(tmp_path / "run")
    assert main([str(tmp_path / "run")]) == 2
    shown = capsys.readouterr()
    assert all(part in shown.err for part in parts), shown.err
    assert shown.err.count("\n") == 1 and shown.out == ""
    assert not (tmp_path / "run/paper_comparison.csv").exists()


def test_a_fit_from_before_an_option_is_one_with_its_old_behaviour(tmp_path):
    old, new = fit_config("qm9", "ls", 0), fit_config("qm9", "ls", 1)
    for key in ("plateau_threshold", "keep_last_batch"):
        del old["schedule"][key]
    new["benchmark"]["standardise"] = "training"
    write_fit(tmp_path / "old/seed-0", old, 1.1)
    write_fit(tmp_path / "new/seed-1", new, 1.1)
    [group] = pool_fits(read_fits([tmp_path]))
    assert len(group.fits) == 2
    new = json.loads(json.dumps({**new, "seed": 0}))
    FitFolder.open_or_create(tmp_path / "old/seed-0", new, {})
    chosen = {**new, "benchmark": {**new["benchmark"], "standardise": "all"}}
    with pytest.raises(RunFolderError, match=r"another benchmark\.standardise \(training there"):
        FitFolder.open_or_create(tmp_path / "old/seed-0", chosen, {})
