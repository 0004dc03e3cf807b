"""How commands end: their reader goes away, Ctrl-C comes, a file is missing or wrong."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import drive_exported_policy
import pytest

from mtrl_fairgrad import train
from mtrl_fairgrad.supervised import __main__ as supervised
from mtrl_fairgrad.supervised.benchmarks import toy
from tests.support.paths import ROOT, SCRIPTS

COMMANDS = ("train", "evaluate", "report", "verify", "search", "supervised")
BEFORE_INSTALLATION = re.findall(r"\$\(PYTHON\) scripts/(\w+)\.py", (ROOT / "Makefile").read_text())


def start(*words, **options):
    return subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, text=True, **options
    )


def without_reader(*words):
    """Start Python with a standard output that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return start(*words, stdout=writing)
    finally:
        os.close(writing)


def test_help_whose_reader_went_away_ends_silently():
    started = [without_reader("-m", f"mtrl_fairgrad.{name}", "--help") for name in COMMANDS]
    for name, process in zip(COMMANDS, started, strict=True):
        assert (process.communicate(timeout=60)[1], process.returncode) == ("", 141), name


def test_a_report_whose_reader_went_away_ends_silently(make):
    run = make("run", {0: [[0.0]], 100: [[1.0]]}, tasks=("reach-v3",), seeds=(0,))
    process = without_reader("-m", "mtrl_fairgrad.report", run)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 141)


def test_scripts_end_as_commands_do():
    for path in SCRIPTS.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.stem == "drive_exported_policy":  # runs without this project
            assert "except BrokenPipeError" in text and "except KeyboardInterrupt" in text
        elif "\ndef main(" in text:
            assert "\n@entry_point\ndef main(" in text, path


@pytest.mark.parametrize("name", BEFORE_INSTALLATION)
def test_scripts_that_make_runs_before_an_installation_need_no_package(name):
    """Isolated, without site-packages."""
    command = [sys.executable, "-I", "-S", SCRIPTS / f"{name}.py", "--help"]
    assert "usage:" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_ctrl_c_during_the_imports_is_one_line():
    """The process sends the signal to itself when PyTorch's import begins."""
    code = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "omegaconf":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["x"]
runpy.run_module("mtrl_fairgrad.train", run_name="__main__")
"""
    process = start("-c", code)
    error = process.communicate(timeout=60)[1]
    assert error.count("\n") == 1 and "Traceback" not in error, error
    assert process.returncode == -signal.SIGINT  # shells report 130


def test_ctrl_c_in_the_toy_problem_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(toy, "run", interrupt)
    assert supervised.main(["benchmark=toy", f"run_dir={tmp_path / 'toy'}"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def interrupt(*arguments):
    raise KeyboardInterrupt


@pytest.mark.parametrize("sweep", [[], ["-m", "method=ls,uw"]], ids=["run", "sweep"])
@pytest.mark.parametrize("command", [train, supervised], ids=["train", "supervised"])
def test_a_run_whose_reader_went_away_ends_silently(command, sweep, monkeypatch, tmp_path, capsys):
    begun = []

    def start(config, overrides):
        begun.append(config)
        raise BrokenPipeError

    monkeypatch.setattr(command, "start", start)
    assert command.main([*sweep, f"hydra.sweep.dir={tmp_path}"]) == 141
    assert len(begun) == 1 and capsys.readouterr().err == ""


def test_a_sweep_of_supervised_runs_has_a_folder_for_each(monkeypatch, tmp_path, capsys):
    seen = []

    def start(config, overrides):
        seen.append(Path(config.run_dir))
        return int(config.method["name"] == "uw")

    monkeypatch.setattr(supervised, "start", start)
    words = ["-m", "method=ls,uw", "epochs=1e1", f"hydra.sweep.dir={tmp_path}"]
    assert supervised.main(words) == 1
    assert [path.parent for path in seen] == [tmp_path, tmp_path]
    assert [path.name[:12] for path in seen] == ["ls-epochs10-", "uw-epochs10-"]
    assert supervised.main(words) == 1
    assert seen[:2] == seen[2:]
    assert "sweep: 1 runs finished, 1 not" in capsys.readouterr().out


# ---- scripts/drive_exported_policy.py, which runs without this project ----

POLICY = {
    "format": "mtrl-fairgrad policy 1",
    "tasks": ["reach-v3"],
    "program": {"file": "policy.pt2", "sha256": "0"},
    "protocol": {"env": "mt10"},
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be played"),
        (b"{", "cannot be played"),
        (b"[]", "format"),
        (json.dumps({**POLICY, "format": "other"}).encode(), "format"),
        (json.dumps({**POLICY, "protocol": {"env": "gymnasium"}}).encode(), "Meta-World"),
        (json.dumps(POLICY).encode(), "policy.pt2 cannot be read"),
    ],
    ids=["missing", "binary", "no_json", "list", "format", "gymnasium", "no_program"],
)
def test_a_missing_or_wrong_policy_is_one_sentence(content, said, tmp_path):
    path = tmp_path / "policy.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        drive_exported_policy.main([str(path)])
    message = str(ended.value.code)
    assert message.startswith("error: ") and said in message and "\n" not in message


@pytest.mark.parametrize("words", [["--tasks", "push-v3"], ["--goals", "0"]])
def test_a_wrong_choice_of_the_policys_tasks_is_refused(words, tmp_path, capsys):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(POLICY))
    with pytest.raises(SystemExit, match="2"):
        drive_exported_policy.main([str(path), *words])
    assert words[1] in capsys.readouterr().err
