"""How a command's main function ends."""

import os
import sys
from contextlib import contextmanager, redirect_stdout

import pytest

import mtrl_fairgrad
from mtrl_fairgrad.utils.entry_point import BROKEN_PIPE, INTERRUPTED, entry_point


@contextmanager
def without_reader():
    """Standard output is a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    # Closing the stream raises if the output was not redirected.
    with os.fdopen(writing, "w") as stream, redirect_stdout(stream):
        yield stream


def test_a_code_is_passed_on():
    assert entry_point(lambda words: len(words))(["a", "b"]) == 2


def test_ctrl_c_is_one_line_and_the_code_of_sigint(capsys):
    def main(words):
        raise KeyboardInterrupt

    assert entry_point(main)([]) == INTERRUPTED == 128 + 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("size", [1, 10**6])
@pytest.mark.parametrize("ending", [None, SystemExit(0)])
def test_a_reader_that_went_away_ends_a_command_silently(size, ending, capsys):
    @entry_point
    def main(words):
        print("x" * size)
        if ending is not None:
            raise ending
        return 0

    with without_reader() as stream:
        assert main([]) == BROKEN_PIPE == 128 + 13
        print("more", file=stream, flush=True)
    assert capsys.readouterr().err == ""


def test_the_version_is_the_package_s(capsys, monkeypatch):
    assert entry_point(lambda words: 1)(["a", "--version"]) == 0
    monkeypatch.setattr(sys, "argv", ["x", "--version"])
    assert entry_point(lambda: 1)() == 0
    assert capsys.readouterr().out == f"mtrl-fairgrad {mtrl_fairgrad.__version__}\n" * 2
