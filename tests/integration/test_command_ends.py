"""How commands end in a terminal: their reader goes away, or Ctrl-C comes during the imports."""

import os
import signal
import subprocess
import sys

from tests.support.paths import ROOT, SCRIPTS

COMMANDS = ("train", "evaluate", "report", "verify", "search", "supervised")


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


def test_ctrl_c_during_the_imports_is_one_line():
    """The process sends the signal to itself when PyTorch's import begins."""
    code = """
import os, runpy, signal, sys
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
