"""What is read of a folder of somebody else: regular files of limited size, and nothing outside."""

import os
import socket

import pytest

from mtrl_fairgrad.utils.atomic_io import content_of, prefix_of
from mtrl_fairgrad.utils.safe_files import (
    MAX_LINE,
    RunFolderError,
    entries,
    files_below,
    read_bytes,
    read_lines,
    reading,
    size_of,
)

READERS = {
    "bytes": lambda path, root: read_bytes(path, 100, root),
    "lines": lambda path, root: list(read_lines(path, 100, root)),
    "size": size_of,
    "content": lambda path, root: content_of(path, root=root),
    "prefix": lambda path, root: prefix_of(path, 3, root),
    "stream": lambda path, root: reading(path, root).__enter__(),
}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@pytest.fixture
def run(tmp_path):
    """A run's folder beside a folder with a file that is none of its business."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret\n")
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)  # relative, since addresses are short


IRREGULAR = {
    "link": lambda path: path.symlink_to("../outside/secret"),
    "link to nothing": lambda path: path.symlink_to("../outside/nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to an endless file": lambda path: path.symlink_to("/dev/zero"),
    "pipe": os.mkfifo,
    "socket": make_socket,
    "folder": os.mkdir,
}


@readers
@pytest.mark.parametrize("make", IRREGULAR.values(), ids=IRREGULAR)
def test_what_is_not_a_regular_file_is_refused_by_its_name(run, monkeypatch, make, read):
    monkeypatch.chdir(run)
    make(run / "table.csv")
    with pytest.raises(RunFolderError, match=r"table\.csv is a") as error:
        read(run / "table.csv", run)
    assert "\n" not in str(error.value) and str(error.value)[-1] == "."


@readers
def test_a_link_is_refused_anywhere_below_the_root_and_allowed_above_it(run, read):
    (run / "policies").symlink_to("../outside")
    with pytest.raises(RunFolderError, match="policies is a symbolic link"):
        read(run / "policies" / "secret", run)
    with pytest.raises(RunFolderError):
        read(run / ".." / "outside" / "secret", run)
    (run.parent / "given").symlink_to("outside")
    read(run.parent / "given" / "secret", run.parent / "given")


@readers
def test_a_missing_file_is_named_with_its_whole_path(run, read):
    for path in (run / "table.csv", run / "policies" / "table.csv", run / "x" / "y" / "z"):
        with pytest.raises(FileNotFoundError) as error:
            read(path, run)
        assert str(path).startswith(str(error.value.filename)) and str(run) in str(error.value)


def test_a_giant_is_refused_before_it_is_read(run):
    with (run / "table.csv").open("wb") as file:
        file.truncate(2**40)
    for read in (read_bytes, lambda *given: next(read_lines(*given))):
        with pytest.raises(RunFolderError, match=r"table.csv has more than the 1,024 bytes"):
            read(run / "table.csv", 2**10)


def test_lines_come_with_their_ends_and_without_a_torn_one(run):
    (run / "table.csv").write_bytes(b"a\n\nbc\nd")
    assert list(read_lines(run / "table.csv", 100)) == [(2, b"a\n"), (3, b"\n"), (6, b"bc\n")]


@pytest.mark.parametrize("extra", [-1, 0, 1, MAX_LINE, MAX_LINE + 1])
def test_a_line_beyond_the_limit_is_empty_and_takes_no_others_with_it(run, extra):
    long = b"x" * (MAX_LINE + extra - 1) + b"\n"
    (run / "table.csv").write_bytes(b"a\n" + long + b"b\n")
    expected = [(2, b"a\n"), (2 + len(long), long if extra < 1 else b""), (4 + len(long), b"b\n")]
    assert list(read_lines(run / "table.csv", 2**20)) == expected


def test_a_folder_is_listed_without_following_links(run):
    (run / "policies").mkdir()
    for name in ("b.json", "a.json", ".a.json.tmp", "a.pt2"):
        (run / "policies" / name).touch()
    assert [path.name for path in entries(run / "policies", "*.json", run)] == ["a.json", "b.json"]
    assert [path.name for path in entries(run / "policies", ".*.tmp", run)] == [".a.json.tmp"]
    assert entries(run / "films") == [] and entries(run / "policies" / "a.pt2") == []
    (run / "films").symlink_to("../outside")
    with pytest.raises(RunFolderError, match="films is a symbolic link"):
        entries(run / "films", "*", run)
    assert [path.name for path in files_below(run, "*")].count("secret") == 0


def test_no_handle_stays_open(run):
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    (run / "link").symlink_to("nothing")
    os.mkfifo(run / "pipe")
    for name in ("link", "pipe", "missing", "link/x"):
        with pytest.raises((OSError, RunFolderError)):
            read_bytes(run / name, 1, run)
    entries(run)
    assert len(os.listdir("/proc/self/fd") if before else []) == len(before)
