"""Ctrl-C: one line, exit code 130, no traceback, and nothing half-done, whenever it comes."""

import multiprocessing
import os
import shlex
import signal
import subprocess
import sys

import pytest

from mtrl_fairgrad import evaluate, train
from mtrl_fairgrad.evaluation import outputs
from mtrl_fairgrad.training import factory, loop
from tests.support.paths import ROOT
from tests.support.tiny_runs import POINT_MASS, POINT_MASS_ONE, rows

COMMAND = [*POINT_MASS, *POINT_MASS_ONE, "steps=40"]


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


def contents(folder):
    """Of all files but the lock, which names the process that held it last."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {path: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train.main([*COMMAND, f"run_dir={folder}"]) == 0
    return folder


@pytest.mark.parametrize("part", ["make_suite", "make_envs", "make_learner", "Evaluator"])
def test_a_new_run_stopped_in_its_start_leaves_no_folder_and_nothing_to_resume(
    part, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(factory, part, interrupt)
    assert train.main([*COMMAND, f"run_dir={tmp_path / 'r'}"]) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"
    assert not (tmp_path / "r").exists()


def test_a_resumed_run_stopped_in_its_start_is_unchanged(finished, monkeypatch, capsys):
    before = contents(finished)
    monkeypatch.setattr(factory, "make_learner", interrupt)
    assert train.main([f"resume={finished}", "steps=80"]) == 130
    resume = f"python -m mtrl_fairgrad.train resume={finished} steps=80"
    assert capsys.readouterr().err == f"stopped at once; resume with: {resume}\n"
    assert contents(finished) == before


def test_a_run_stopped_at_once_in_training_names_the_command_that_goes_on(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "step", interrupt)
    assert train.main([*COMMAND, f"run_dir={tmp_path / 'a run'}"]) == 130
    said = capsys.readouterr().err
    assert said.startswith("stopped at once; resume with: ") and said.count("\n") == 1
    monkeypatch.undo()
    words = shlex.split(said.partition("with: ")[2])
    assert train.main(words[3:]) == 0
    assert [row["env_steps"] for row in rows(tmp_path / "a run")] == ["0", "40"]


@pytest.mark.parametrize("place", ["goal_maps", "write_atomic"])
def test_an_evaluation_that_is_stopped_is_one_line_and_leaves_the_run(
    place, finished, tmp_path, monkeypatch, capsys
):
    before = contents(finished)
    monkeypatch.setattr(outputs, place, interrupt)
    if place == "goal_maps":
        monkeypatch.setattr("mtrl_fairgrad.envs.evaluation.EvaluationRollout.advance", interrupt)
    options = ["--workers", "0", "--goals", "1", "--out", str(tmp_path / "out")]
    assert evaluate.main([str(finished), *options]) == 130
    said = capsys.readouterr().err
    assert said == "stopped by Ctrl-C\n"
    assert contents(finished) == before and not list((tmp_path / "out").glob("*"))
    assert not [child for child in multiprocessing.active_children()]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_ctrl_c_while_a_command_is_being_imported_is_one_line(command, tmp_path):
    """The module that is imported last answers with the signal itself."""
    last = {"train": "hydra", "evaluate": "mtrl_fairgrad.evaluation.runner"}[command]
    script = (
        "import importlib.abc, os, runpy, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {last!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"runpy.run_module('mtrl_fairgrad.{command}', run_name='__main__')\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stderr == "stopped by Ctrl-C\n"
    assert found.returncode in (130, -signal.SIGINT), "both are 130 in a shell"
