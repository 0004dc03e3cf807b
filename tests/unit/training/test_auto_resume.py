"""resume=auto starts a run, resumes it, or leaves a finished one as it is."""

import pytest

from mtrl_fairgrad import train, verify
from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.runs.resume_log import COMPARED, read_resumes
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.auto_resume import resolve_auto_resume
from tests.support.tiny_runs import POINT_MASS, POINT_MASS_ONE, assert_same_checkpoint, rows


def test_the_same_command_begins_goes_on_and_then_has_nothing_to_do(tmp_path, capsys):
    command = [*POINT_MASS, *POINT_MASS_ONE, "resume=auto", f"run_dir={tmp_path / 'r'}"]
    assert train.main([*command, "steps=40"]) == 0
    assert train.main([*command, "steps=80"]) == 0
    assert "nothing is left" not in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")}
    assert train.main([*command, "steps=80"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*")} == before
    assert (
        train.main([*POINT_MASS, *POINT_MASS_ONE, "steps=80", f"run_dir={tmp_path / 'whole'}"]) == 0
    )
    assert_same_checkpoint(tmp_path / "r", tmp_path / "whole")
    assert [row["env_steps"] for row in rows(tmp_path / "r")] == ["0", "40", "80"]
    [resume] = read_resumes(tmp_path / "r")
    manifest = RunFolder.open(tmp_path / "r").manifest
    assert (resume["env_steps"], resume["steps"], manifest["steps"]) == (40, 80, 40)
    assert all(resume[key] == manifest[key] for key in COMPARED)
    assert verify.main([str(tmp_path / "r")]) == 0


def test_a_missing_report_of_a_finished_run_is_written(tmp_path):
    command = [*POINT_MASS, *POINT_MASS_ONE, "steps=20", "resume=auto", f"run_dir={tmp_path / 'r'}"]
    assert train.main(command) == 0
    (tmp_path / "r" / "report.csv").unlink()
    assert train.main(command) == 0
    assert (tmp_path / "r" / "report.csv").is_file()


def test_another_configuration_or_fewer_steps_are_refused(tmp_path, capsys):
    command = [*POINT_MASS, *POINT_MASS_ONE, "resume=auto", f"run_dir={tmp_path / 'r'}"]
    assert train.main([*command, "steps=20"]) == 0
    capsys.readouterr()
    assert train.main([*command, "steps=20", "agent.width=8"]) == 2
    assert "agent.width (16 before, 8 now)" in capsys.readouterr().err
    assert train.main([*command, "steps=10"]) == 2
    assert "steps=20, but steps=10 " in capsys.readouterr().err


def test_it_needs_a_folder(capsys):
    assert train.main([*POINT_MASS, "resume=auto"]) == 2
    assert "run_dir=FOLDER" in capsys.readouterr().err


def test_a_folder_whose_making_was_interrupted_is_no_obstacle(tmp_path, monkeypatch):
    """Killed at any point of `RunFolder.create`, before config.yaml is there."""
    path = tmp_path / "r"
    RunFolder.create(path, {"steps": 1}, {})
    (path / "config.yaml").unlink()
    (path / "notes.txt").write_text("mine")
    config = Config(run_dir=str(path), resume="auto")
    assert resolve_auto_resume(config) and config.resume is None
    assert [file.name for file in path.iterdir()] == ["notes.txt"]
    RunFolder.create(path, {"steps": 1}, {})


@pytest.mark.parametrize("result", ["checkpoints/000000000020/state.json", "evaluations.csv"])
def test_what_was_measured_is_never_removed(result, tmp_path):
    file = tmp_path / "r" / result
    file.parent.mkdir(parents=True)
    file.write_text("env_steps\n1\n")
    resolve_auto_resume(Config(run_dir=str(tmp_path / "r"), resume="auto"))
    assert file.is_file()


def test_it_is_resolved_before_it_is_recorded(tmp_path):
    config = Config(run_dir=str(tmp_path / "r"), resume="auto", steps=10)
    resolve_auto_resume(config)
    RunFolder.create(tmp_path / "r", {"steps": 10}, {})
    config.resume = "auto"
    assert resolve_auto_resume(config) and config.resume == str(tmp_path / "r")
    config = Config(run_dir=str(tmp_path / "r"), resume="auto", steps=9)
    with pytest.raises(ConfigError, match="steps=9"):
        resolve_auto_resume(config)
    assert not resolve_auto_resume(Config(run_dir=str(tmp_path / "r")))
