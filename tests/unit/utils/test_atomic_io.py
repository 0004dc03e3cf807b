"""What is written and removed: files of the folder itself, wherever its links may lead."""

import errno
import os
import stat

import pytest

from mtrl_fairgrad.utils import atomic_io
from mtrl_fairgrad.utils.atomic_io import (
    AppendFile,
    RunFolderError,
    append,
    cut,
    make_folder,
    make_folders,
    read_back,
    remove,
    remove_temporaries,
    rename,
    sync,
    write,
    write_atomic,
)


@pytest.fixture
def run(tmp_path):
    """A run's folder with links to a file and a folder outside."""
    outside = tmp_path / "outside"
    (outside / "segments").mkdir(parents=True)
    for name in ("precious", "segments/a.rows", "segments/.a.tmp"):
        (outside / name).write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / "link").symlink_to("../outside/precious")
    (run / "hard").hardlink_to(outside / "precious")
    (run / "folder").symlink_to("../outside")
    os.mkfifo(run / "pipe")
    yield run
    assert {path.name: path.read_text() for path in outside.rglob("*") if path.is_file()} == {
        name: "precious" for name in ("precious", "a.rows", ".a.tmp")
    }
    assert len(list(outside.rglob("*"))) == 4


def test_a_planted_temporary_is_not_followed(run):
    (run / ".report.csv.tmp").symlink_to("../outside/precious")
    write_atomic(run / "report.csv", b"new")
    assert (run / "report.csv").read_bytes() == b"new"
    assert not (run / "report.csv").is_symlink()


@pytest.mark.parametrize("name", ["link", "pipe", "hard"])
def test_a_link_of_the_files_name_is_replaced(run, name):
    write_atomic(run / name, b"new")
    assert stat.S_ISREG((run / name).lstat().st_mode) and (run / name).read_bytes() == b"new"


@pytest.mark.parametrize("name", ["link", "pipe", "hard", "folder"])
def test_a_link_is_never_changed_in_place(run, name):
    for change in (
        lambda path: append(path, 0, b"new"),
        lambda path: cut(path, 0),
        lambda path: append(path / "precious", 0, b"new", run),
    ):
        with pytest.raises((RunFolderError, NotADirectoryError), match=name):
            change(run / name)
    with pytest.raises(FileExistsError):
        write(run / name, [b"new"])
    file = AppendFile(run / name)
    file.write(b"new")
    with pytest.raises(RunFolderError):
        file.flush()


def test_nothing_is_written_made_renamed_or_removed_behind_a_link(run):
    (run / "own").write_text("own")
    behind = run / "folder" / "segments"
    for change in (
        lambda: write(behind / "b", [b"new"], run),
        lambda: write_atomic(behind / "a.rows", b"new", run),
        lambda: make_folder(run / "folder", run),
        lambda: make_folder(behind / "b", run),
        lambda: make_folders(behind / "b" / "c", run),
        lambda: rename(run / "own", behind / "a.rows", run),
        lambda: rename(behind / "a.rows", run / "own", run),
        lambda: remove(behind / "a.rows", run),
        lambda: remove(behind, run),
        lambda: remove_temporaries(behind, run),
        lambda: sync(behind, run),
    ):
        with pytest.raises(RunFolderError, match="folder is a symbolic link"):
            change()
    assert (run / "own").read_text() == "own"


def test_deletion_removes_links_and_not_what_they_lead_to(run):
    (run / "inner").mkdir()
    (run / "inner" / "folder").symlink_to("../../outside")
    remove(run)
    remove(run)  # does nothing
    assert not run.exists()
    run.mkdir()


def test_a_temporary_is_a_new_file_for_every_writer(run):
    names = {atomic_io.temporary(run / "report.csv").name for _ in range(100)}
    assert len(names) == 100
    for name in names:
        (run / name).touch()
    remove_temporaries(run)
    assert not list(run.glob(".*.tmp"))


def test_a_write_that_fails_leaves_no_temporary(run):
    (run / "report.csv").mkdir()
    with pytest.raises((OSError, RunFolderError), match=r"report\.csv"):
        write_atomic(run / "report.csv", b"new")
    assert not list(run.glob(".*.tmp"))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_without_sync_of_folders_and_advice_is_noted_once(
    run, monkeypatch, caplog, number
):
    fsync = os.fsync

    def refuse(handle, *_):
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "posix_fadvise", refuse_advice, raising=False)
    monkeypatch.setattr(atomic_io, "_noted", set())
    for _ in range(3):
        write_atomic(run / "report.csv", b"new")
        read_back(run / "report.csv", atomic_io.content_of(run / "report.csv"))
    assert len(caplog.records) == 1 and str(run) in caplog.text


def refuse_advice(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def test_a_folder_that_the_disk_cannot_sync_is_an_error(run, monkeypatch):
    def fail(handle):
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as error:
        write_atomic(run / "report.csv", b"new")
    assert error.value.filename == str(run)
