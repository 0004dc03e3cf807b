"""Creators, takers and cleaners of one folder: nobody removes or continues what is another's."""

import errno
import os

import pytest

from mtrl_fairgrad.runs import run_dir
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from tests.support.sample_run import CONFIG, GROUPS, fork, one_sentence, rows


def content(path):
    return {
        each.relative_to(path): each.read_bytes()
        for each in path.rglob("*")
        if each.is_file() and each.name != "run.lock"
    }


def in_another_process(action, *arguments):
    """Return the text of the RunFolderError that an action raises elsewhere; empty without one."""
    ours, theirs = fork.Pipe(duplex=False)

    def body():
        try:
            action(*arguments)
            theirs.send("")
        except RunFolderError as error:
            theirs.send(str(error))

    process = fork.Process(target=body)
    process.start()
    assert ours.poll(30), "it did not answer"
    process.join(10)
    return ours.recv()


def finish_another_run(path):
    """Do what `resume=auto` does with a folder that is not finished."""
    RunFolder.clear_unfinished(path)
    folder = RunFolder.open(path) if (path / "config.yaml").exists() else None
    folder = folder or RunFolder.create(path, CONFIG, {})
    with folder.lock():
        folder.append_evaluation(rows(500))
        folder.save_checkpoint(500, GROUPS, {})


@pytest.mark.parametrize("name", ["evaluations.csv", "manifest.json", "config.yaml"])
def test_a_creator_that_stalls_keeps_its_folder_from_others(tmp_path, monkeypatch, name):
    """The other process comes before each file appears."""
    path, refusals, write = tmp_path / "run", [], run_dir.write_atomic

    def stall(file, data):
        if file.name == name and not refusals:
            refusals.append("stalled")
            refusals[0] = in_another_process(finish_another_run, path)
        write(file, data)

    monkeypatch.setattr("mtrl_fairgrad.runs.base_run_dir.write_atomic", stall)
    folder = RunFolder.create(path, CONFIG, {})
    [refusal] = refusals
    assert str(path) in refusal and "another process" in refusal
    assert RunFolder.open(path).evaluations() == [] and not folder.has_checkpoint()


def test_a_creator_that_stalls_before_its_lock_leaves_a_finished_run_alone(tmp_path, monkeypatch):
    path, makedirs = tmp_path / "run", os.makedirs

    def stall(folder, exist_ok=False):
        makedirs(folder, exist_ok=exist_ok)
        if folder == path:
            monkeypatch.undo()
            assert in_another_process(finish_another_run, path) == ""

    monkeypatch.setattr(os, "makedirs", stall)
    with pytest.raises(RunFolderError, match="already holds a run") as error:
        RunFolder.create(path, CONFIG, {})
    assert one_sentence(error)
    assert [row.env_steps for row in RunFolder.open(path).evaluations()] == [500, 500]


def test_a_creator_that_stalls_after_its_run_is_made_does_not_take_it_back(tmp_path):
    path = tmp_path / "run"
    mine = RunFolder.create(path, CONFIG, {})
    assert in_another_process(finish_another_run, path) == ""
    before = content(path)
    with pytest.raises(RunFolderError, match="another process has taken over") as error:
        mine.lock().__enter__()
    assert one_sentence(error)
    mine.discard()
    assert content(path) == before and before


def test_a_creator_that_nobody_disturbed_locks_and_discards_its_run(tmp_path):
    (tmp_path / "train.log").write_text("mine")
    folder = RunFolder.create(tmp_path, CONFIG, {})
    for _ in range(2):
        with folder.lock():
            assert "another process" in in_another_process(finish_another_run, tmp_path)
    folder.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["train.log"]


def test_a_process_trains_in_a_folder_once(tmp_path):
    (tmp_path / "link").symlink_to("run")
    folder = RunFolder.create(tmp_path / "run", CONFIG, {})
    with folder.lock():
        for path in (folder.path, tmp_path / "link"):
            with pytest.raises(RunFolderError, match="this process is training") as error:
                RunFolder.open(path).lock().__enter__()
            assert one_sentence(error)
        assert "another process" in in_another_process(finish_another_run, folder.path)
    with RunFolder.open(folder.path).lock():
        pass


def test_a_run_is_discarded_by_the_process_that_holds_its_lock(tmp_path):
    folder = RunFolder.create(tmp_path / "run", CONFIG, {})
    with folder.lock():
        folder.discard()
        assert not folder.path.exists()


def test_without_locks_of_the_file_system_a_run_that_was_taken_over_is_not_discarded(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("mtrl_fairgrad.runs.run_lock.fcntl", None)
    for name in ("pread", "pwrite"):  # Windows has none of them
        monkeypatch.delattr(os, name)
    path = tmp_path / "run"
    mine = RunFolder.create(path, CONFIG, {})
    with mine.lock():
        assert in_another_process(finish_another_run, path) == ""
        before = content(path)
        mine.discard()
        assert content(path) == before and before


def test_a_file_system_without_locks_is_noted_once_and_one_that_refuses_is_taken(
    tmp_path, monkeypatch, caplog
):
    def fail(number):
        def lockf(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("mtrl_fairgrad.runs.run_lock.fcntl.lockf", lockf)

    fail(errno.ENOLCK)
    folder = RunFolder.create(tmp_path / "run", CONFIG, {})
    with folder.lock():
        pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    fail(errno.EACCES)
    with pytest.raises(RunFolderError, match="another process is training"):
        folder.lock().__enter__()


def test_a_folder_that_a_killed_creator_left_is_cleared_and_a_run_is_not(tmp_path):
    for name in ("evaluations.csv", "manifest.json"):
        path = tmp_path / name / "run"
        RunFolder.create(path, CONFIG, {})
        for part in ("config.yaml", "manifest.json")[: 1 + (name == "manifest.json")]:
            (path / part).unlink()
        RunFolder.clear_unfinished(path)
        assert not path.exists()
    finish_another_run(path)
    before = content(path)
    RunFolder.clear_unfinished(path)
    (path / "config.yaml").rename(tmp_path / "config.yaml")
    RunFolder.clear_unfinished(path)
    (tmp_path / "config.yaml").rename(path / "config.yaml")
    assert content(path) == before


def test_clearing_makes_no_folder_and_no_lock(tmp_path):
    RunFolder.clear_unfinished(tmp_path / "missing")
    RunFolder.clear_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("../key"),
        lambda path: path.hardlink_to(path.parent.parent / "key"),
        os.mkfifo,
        os.mkdir,
    ],
)
def test_a_lock_that_is_not_a_regular_file_is_refused_and_not_followed(tmp_path, make):
    (tmp_path / "key").write_text("precious")
    folder = RunFolder.create(tmp_path / "run", CONFIG, {})
    (folder.path / "run.lock").unlink()
    make(folder.path / "run.lock")
    with pytest.raises(RunFolderError, match=r"run\.lock is a") as error:
        folder.lock().__enter__()
    assert one_sentence(error) and (tmp_path / "key").read_text() == "precious"
