"""Verification of supervised fits and comparisons."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mtrl_fairgrad import report, verify
from mtrl_fairgrad.supervised.__main__ import main
from mtrl_fairgrad.supervised.fit_folder import FitResult
from mtrl_fairgrad.supervised.run_folder import SupervisedRunFolder
from mtrl_fairgrad.supervised.trainer import Trainer
from mtrl_fairgrad.utils.faults import TrainingFault

TINY = ["benchmark.pairs=8", "benchmark.width=1", "epochs=2", "progress=false", "threads=1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained")
    assert main([*TINY, "method=ls", "seeds=[0,1]", f"run_dir={path}"]) == 0
    return path


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


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
    wrong.pop("tables", None)
    assert check in wrong and all(
        "seed-1" in problem for part in wrong.values() for problem in part
    )


# ---- the folder of a run ----

METRICS = {"left": 80.0, "right": 50.0, "ink": 2.0}


@pytest.fixture
def faked(tmp_path, monkeypatch):
    """Return a function that runs a command without training; methods in `faults` fail."""
    faults = {}

    def run(trainer, progress):
        row, seed = trainer.folder.path.parent.name, trainer.spec.seed
        if (row, seed) in faults:
            raise TrainingFault(faults[row, seed])
        found = {name: value + seed + len(row) / 7 for name, value in METRICS.items()}
        return FitResult(found, {**found, "ink": found["ink"] / 2}, 0.1 * len(row))

    def fake_init(self, spec, benchmark, folder, *others):
        self.spec, self.benchmark, self.folder = spec, benchmark, folder

    monkeypatch.setattr(Trainer, "__init__", fake_init)
    monkeypatch.setattr(Trainer, "run", run)

    def command(*words, code=0, **failing):
        faults.clear()
        faults.update(failing.get("faults", {}))
        assert main([*TINY, *words, f"run_dir={tmp_path}"]) == code
        return tmp_path

    return command


def findings(path, capsys):
    """Check -> (problems, notes)."""
    capsys.readouterr()
    verify.main([str(path), "--json"])
    listed = json.loads(capsys.readouterr().out)["findings"]
    return {one["check"]: (one["problems"], one["notes"]) for one in listed}


COMMANDS = {
    "one method": ["method=uw", "seeds=[0,1]"],
    "compare": ["compare=alpha", "seeds=[0,1]"],
    "search": ["compare=search", "search.coarse=[1,2]", "search.radius=0.1", "seeds=[0,1]"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_folder_of_a_run_has_its_configuration_and_its_tables_verify(command, faked, capsys):
    path = faked(*COMMANDS[command])
    config = yaml.safe_load((path / "config.yaml").read_text())
    assert config["seeds"] == [0, 1] and config["benchmark"]["pairs"] == 8
    manifest = SupervisedRunFolder.open(path).manifest
    assert manifest["kind"] == "supervised" and "seeds=[0,1]" in manifest["overrides"]
    assert findings(path, capsys)["tables"] == ([], [])
    tables = [path / name for name in ("table.csv", "search.csv") if (path / name).is_file()]
    assert len(tables) == 1 + (command == "search")
    for table in tables:
        before = table.read_text()
        lines = before.splitlines(keepends=True)
        table.write_text("".join([*lines[:-1], lines[-1].replace(",", ",9", 1)]))
        [problem] = findings(path, capsys)["tables"][0]
        assert f"line {len(lines)} of {table.name}" in problem
        table.write_text("".join(lines[:-1]))
        assert len(findings(path, capsys)["tables"][0]) == 1
        table.unlink()
        assert findings(path, capsys)["tables"] == ([f"there is no {table.name}"], [])
        table.write_text(before)


def test_a_table_of_other_results_is_found(run, capsys):
    assert findings(run, capsys)["tables"] == ([], [])
    alter_result(run / "ls/seed-1")
    [problem] = findings(run, capsys)["tables"][0]
    assert "line 2 of table.csv (ls)" in problem


def test_rows_that_failed_are_those_of_the_fits(faked, capsys):
    path = faked("compare=alpha", "seeds=[0,1]", code=1, faults={("fairgrad α=2", 1): "NaN."})
    found = findings(path, capsys)
    assert found["tables"] == ([], [])
    assert any("fairgrad α=2/seed-1 failed: NaN." in note for note in found["result"][1])
    (path / "fairgrad α=2/seed-1/fault.txt").write_text("another.\n")
    [problem] = findings(path, capsys)["tables"][0]
    assert "(fairgrad α=2)" in problem


def test_a_search_that_excludes_an_alpha_verifies(faked, capsys):
    words = ["compare=search", "search.coarse=[1,2]", "search.radius=0.1", "seeds=[0]"]
    path = faked(*words, faults={("fairgrad α=1", 0): "NaN."})
    assert findings(path, capsys)["tables"] == ([], [])


def test_a_run_whose_only_fit_failed_does_not_verify(faked, capsys):
    path = faked("method=uw", code=1, faults={("uw", 0): "NaN."})
    assert findings(path, capsys)["result"][0] == ["all fits failed"]


def test_an_unfinished_comparison_does_not_verify(faked, capsys):
    path = faked("compare=alpha")
    shutil.rmtree(path / "fairgrad α=5")
    [problem] = findings(path, capsys)["tables"][0]
    assert "not finished" in problem and "fairgrad α=5" in problem


def test_the_configuration_is_that_of_the_command_that_wrote_the_table(faked, capsys, tmp_path):
    path = faked("compare=alpha")
    before = [(path / name).read_bytes() for name in ("config.yaml", "manifest.json")]
    faked("compare=alpha")
    assert [(path / name).read_bytes() for name in ("config.yaml", "manifest.json")] == before
    faked("compare=alpha", "epochs=5", code=2)  # the fits have another number of epochs
    assert [(path / name).read_bytes() for name in ("config.yaml", "manifest.json")] == before
    faked("method=uw")
    assert yaml.safe_load((path / "config.yaml").read_text())["compare"] is None
    found = findings(path, capsys)
    assert found["tables"] == found["configuration"] == ([], [])


def test_an_altered_configuration_of_a_run_is_found(faked, capsys):
    path = faked("method=uw")
    change(path / "config.yaml", "epochs: 2", "epochs: 3")
    found = findings(path, capsys)
    assert "not the configuration" in found["configuration"][0][0]
    assert "schedule.epochs" in found["tables"][0][0]


def test_given_baselines_are_read_again_and_without_them_the_table_is_not_recomputed(
    faked, capsys, tmp_path
):
    given = tmp_path / "given.csv"
    given.write_text("method,left,right,ink\nstl,90,60,1\n")
    path = faked("method=uw", f"baselines={given}")
    assert findings(path, capsys)["tables"] == ([], [])
    given.write_text("method,left,right,ink\nstl,90,60,2\n")
    assert findings(path, capsys)["tables"][0]
    given.unlink()
    problems, [note] = findings(path, capsys)["tables"]
    assert problems == [] and "not recomputed" in note and str(given) in note


def test_a_stored_configuration_does_not_look_at_this_machine(faked, monkeypatch, capsys):
    monkeypatch.setenv("SECRET", "mine")
    path = faked("method=uw")
    change(path / "config.yaml", "baselines: null", "baselines: ${oc.env:SECRET}")
    problems, notes = findings(path, capsys)["tables"]
    assert "interpolations" in problems[0] and "mine" not in str(problems + notes)


def test_folders_of_versions_without_descriptions_are_read_and_stay_without(faked, capsys):
    path = faked("method=uw")
    for name in ("config.yaml", "manifest.json"):
        (path / name).unlink()
    assert "tables" not in findings(path, capsys)
    assert report.main([str(path)]) == 0
    faked("method=uw")
    assert not (path / "config.yaml").exists()


def test_reports_read_a_run_and_a_parent_of_runs(faked, capsys):
    path = faked("method=uw")
    (path / "runs").mkdir()
    for name in ("uw", "config.yaml", "manifest.json", "table.csv"):
        (path / name).rename(path / "runs" / name)
    for given in (path / "runs", path):
        capsys.readouterr()
        assert report.main([str(given), "--out", str(path / "out")]) == 0
        assert "\nuw " in capsys.readouterr().out


@pytest.mark.parametrize("config", ["steps: 100\n", "a: 1\n"])
def test_the_folder_of_another_run_is_refused(config, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(config)
    assert main([*TINY, "method=ls", f"run_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error and error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]
