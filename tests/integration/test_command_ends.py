"""How commands end: their reader goes away, Ctrl-C comes, a file is missing or wrong."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path

import drive_exported_policy
import pytest

from mtrl_fairgrad import report, train
from mtrl_fairgrad.analysis.report import report_files
from mtrl_fairgrad.envs.gymnasium_suite import GymnasiumTask
from mtrl_fairgrad.supervised import __main__ as supervised
from mtrl_fairgrad.supervised.benchmarks import toy
from tests.support.paths import ROOT, SCRIPTS
from tests.support.tiny_runs import POINT_MASS, POINT_MASS_ONE, POINT_MASS_TASKS

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


# ---- training ----

TRAIN = [*POINT_MASS, *POINT_MASS_ONE, "steps=20", "eval.every=20"]


def test_an_exception_of_an_environment_is_printed_whole(monkeypatch, tmp_path, capsys):
    def step(environment, action):
        wheels = "\x1b[31m" + "wheel " * 300
        raise RuntimeError(f"no such\n{wheels}")

    monkeypatch.setattr(GymnasiumTask, "_simulate", step)
    assert train.main([*TRAIN, f"run_dir={tmp_path / 'r'}"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: ") and POINT_MASS_TASKS[0] in said[0]
    assert "Traceback (most recent call last):" in said
    assert '    raise RuntimeError(f"no such\\n{wheels}")' in said
    assert "\\x1b[31m" + "wheel " * 299 + "wheel" in said
    assert said[-1] == f"resume with: python -m mtrl_fairgrad.train resume={tmp_path / 'r'}"


def test_a_disk_that_is_full_at_the_last_report_is_named_with_what_is_left_to_do(
    monkeypatch, tmp_path, capsys
):
    def refuse(path, content):
        raise OSError(errors.pop(), "refused", str(path))

    errors = [errno.EACCES, errno.EIO, errno.ENOSPC]
    monkeypatch.setattr(report_files, "write_atomic", refuse)
    assert train.main([*TRAIN, f"run_dir={tmp_path / 'r'}"]) == 1
    [said] = capsys.readouterr().err.splitlines()
    assert "make room" in said and "--out" not in said
    assert said.endswith(f"python -m mtrl_fairgrad.report {tmp_path / 'r'}")
    assert report.main([str(tmp_path / "r")]) == 1
    assert "check the disk" in capsys.readouterr().err
    assert report.main([str(tmp_path / "r")]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("buffering", [1, -1], ids=["in training", "at the end"])
def test_a_full_disk_of_the_output_is_not_taken_for_the_runs(buffering, tmp_path, capsys):
    folder = tmp_path / "r"
    with open("/dev/full", "w", buffering) as full, redirect_stdout(full):
        assert train.main([*TRAIN, f"run_dir={folder}"]) == 1
    [said] = capsys.readouterr().err.splitlines()
    assert "the output cannot be written" in said and os.strerror(errno.ENOSPC) in said
    if buffering == 1:
        assert said.endswith(f"resume with: python -m mtrl_fairgrad.train resume={folder}")
    else:
        assert said.endswith(f"the run in {folder} is finished")


def test_a_reader_that_leaves_gets_the_command_that_resumes(tmp_path, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", 1) as stream, redirect_stdout(stream):
        assert train.main([*TRAIN, f"run_dir={tmp_path / 'r'}"]) == 141
    assert capsys.readouterr().err.startswith("resume with: ")


def test_a_run_ends_well_on_a_terminal_that_knows_ascii_alone(tmp_path, capsys):
    with TextIOWrapper(BytesIO(), encoding="ascii") as stream:
        with redirect_stdout(stream):
            assert train.main([*TRAIN, "method=fairgrad", f"run_dir={tmp_path / 'ü'}"]) == 0
        assert b"run folder: " in stream.buffer.getvalue()
    assert capsys.readouterr().err == ""


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
