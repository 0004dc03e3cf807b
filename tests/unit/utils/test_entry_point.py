"""How a command's main function ends."""

import errno
import os
import sys
from contextlib import contextmanager, redirect_stdout
from io import BytesIO, TextIOWrapper

import pytest

import mtrl_fairgrad
from mtrl_fairgrad.utils.entry_point import BROKEN_PIPE, INTERRUPTED, OUTPUT_FAULT, entry_point


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


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("size", [1, 10**6])
def test_an_output_on_a_full_disk_is_named_as_the_cause(size, unbuffered, capsys):
    @entry_point
    def main(words):
        print("x" * size, flush=unbuffered)
        return 0

    with open("/dev/full", "w") as full, redirect_stdout(full):
        assert main([]) == OUTPUT_FAULT == 1
        full.flush()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and os.strerror(errno.ENOSPC) in said and "output" in said


def test_an_error_of_a_file_is_not_one_of_the_output(tmp_path):
    with pytest.raises(FileNotFoundError):
        entry_point(lambda words: (tmp_path / "missing").read_bytes())([])
    with pytest.raises(OSError, match="other"):
        entry_point(lambda words: fail_with(OSError(errno.ENOSPC, "other")))([])


def fail_with(error):
    raise error


def test_a_terminal_without_a_character_shows_its_escape():
    with TextIOWrapper(BytesIO(), encoding="ascii") as stream:
        with redirect_stdout(stream):
            assert entry_point(lambda words: print("α=2 \udcff") or 0)([]) == 0
        assert stream.buffer.getvalue() == b"\\u03b1=2 \\udcff\n"
