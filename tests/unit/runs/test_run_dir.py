import errno
import json
import os
import signal
import time

import pytest

from mtrl_fairgrad.runs.manifest import config_sha256
from mtrl_fairgrad.runs.run_dir import Evaluation, RunFolder, RunFolderError
from mtrl_fairgrad.utils.atomic_io import remove
from mtrl_fairgrad.utils.validation import MAX_NAME
from tests.support.errors import refused
from tests.support.sample_run import CONFIG, GROUPS, Fault, fork, one_sentence, rows


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", CONFIG, {"overrides": ["alpha=2"]})


# ---- making and finding a folder ----


def test_what_is_created_is_what_is_opened(folder):
    again = RunFolder.open(folder.path)
    assert again.config == folder.config == json.loads(json.dumps(CONFIG))
    assert again.config["agent"] == CONFIG["agent"]
    assert (
        again.manifest
        == folder.manifest
        == {
            "overrides": ["alpha=2"],
            "config_sha256": config_sha256(folder.config),
        }
    )
    assert again.evaluations() == [] and not again.has_checkpoint()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tasks", [f"task {n}" for n in range(20_000)]),  # a file above the reader's limit
        ("run_dir", "(" * 70),  # too many brackets
        ("method", {"beta": float("nan")}),  # differs from itself
    ],
)
def test_what_could_not_be_read_again_is_refused_before_anything_is_made(tmp_path, key, value):
    config = {**CONFIG, key: value, "seeds": [0]}
    with refused(key, value):
        RunFolder.create(tmp_path / "run", config, {})
    assert not (tmp_path / "run").exists()


def test_a_path_with_no_room_for_checkpoints_is_refused_before_anything_is_made(tmp_path):
    path = tmp_path
    while len(str(path)) < 4060:
        path /= "d" * max(1, min(200, 4059 - len(str(path))))
    with pytest.raises(RunFolderError, match=os.strerror(errno.ENAMETOOLONG)):
        RunFolder.create(path, CONFIG, {})
    assert not any(tmp_path.iterdir())


def test_a_folder_with_other_files_is_used_and_they_stay(tmp_path):
    (tmp_path / "train.log").write_text("mine")
    RunFolder.create(tmp_path, CONFIG, {})
    assert (tmp_path / "train.log").read_text() == "mine"


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "evaluations.csv", "checkpoints"])
def test_a_folder_that_holds_any_part_of_a_run_is_refused_untouched(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(RunFolderError, match=f"already holds a run .{name}") as error:
        RunFolder.create(tmp_path, CONFIG, {})
    assert one_sentence(error)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_an_impossible_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with pytest.raises(RunFolderError, match="cannot be created") as error:
            RunFolder.create(path, CONFIG, {})
        assert one_sentence(error)


def test_a_disk_that_fills_while_creating_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    for allowed in range(6):  # three files, each synced with its folder
        monkeypatch.setattr(os, "fsync", Fault(os.fsync, allowed))
        with pytest.raises(RunFolderError, match=os.strerror(errno.ENOSPC)) as error:
            RunFolder.create(tmp_path / "run", CONFIG, {})
        monkeypatch.undo()
        assert one_sentence(error)
        assert list((tmp_path / "run").iterdir()) == []
    monkeypatch.setattr(os, "fsync", Fault(os.fsync, 6))
    RunFolder.create(tmp_path / "run", CONFIG, {})


def test_opening_what_is_no_run(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(RunFolderError, match="holds no run") as error:
            RunFolder.open(path)
        assert one_sentence(error)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"env: [1, 2"),
        ("config.yaml", b"- a list"),
        ("config.yaml", b""),
        ("config.yaml", b"\xff\xfe\xfa"),
        ("manifest.json", b'{"versions": '),
        ("manifest.json", b"[]"),
        ("manifest.json", b'{"protocol": 3}'),
        ("manifest.json", b'{"git": {"commit": 1, "dirty": false}}'),
        ("manifest.json", b'{"versions": {"torch": 2}}'),
        ("manifest.json", b'{"started": 1e999}'),
        ("config.yaml", b"steps: .inf"),
        ("config.yaml", b"steps: 1e6"),
        ("config.yaml", b"eval: {every: .inf}"),
        ("config.yaml", b"eval: {every: 0}"),
        ("config.yaml", b"env: {tasks: reach-v3}"),
        ("config.yaml", b"env.tasks: 3"),
        ("config.yaml", b"method: {name: [ls]}"),
        ("config.yaml", b"method: {alpha: 1" + b"0" * 400 + b"}"),
    ],
)
def test_damaged_files_are_named_in_one_sentence(folder, name, content):
    (folder.path / name).write_bytes(content)
    with pytest.raises(RunFolderError, match=name) as error:
        RunFolder.open(folder.path)
    assert one_sentence(error)


def test_opening_a_strangers_folder_runs_no_code(folder, tmp_path):
    (folder.path / "config.yaml").write_text(
        f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']"
    )
    with pytest.raises(RunFolderError, match=r"config\.yaml is damaged"):
        RunFolder.open(folder.path)
    assert not (tmp_path / "ran").exists()


def test_a_missing_manifest_is_named(folder):
    (folder.path / "manifest.json").unlink()
    with pytest.raises(RunFolderError, match=r"manifest\.json cannot be read"):
        RunFolder.open(folder.path)


# ---- evaluations ----


def test_evaluations_come_back_exactly_and_in_order(folder):
    first, second = rows(0, "reach-v3", 'odd, "name"'), rows(500)
    folder.append_evaluation(first)
    folder.append_evaluation(second)
    assert RunFolder.open(folder.path).evaluations() == first + second
    header = (folder.path / "evaluations.csv").read_text().splitlines()[0]
    assert header == "env_steps,seed,task,episodes,success,return,return_until_success"


def test_every_torn_end_of_the_file_loses_only_the_torn_line(folder):
    file = folder.path / "evaluations.csv"
    folder.append_evaluation(rows(0))
    before = len(file.read_bytes())
    folder.append_evaluation(rows(500, "reach-v3"))
    whole = file.read_bytes()
    for length in range(before, len(whole)):
        file.write_bytes(whole[:length])
        assert folder.evaluations() == rows(0)
        assert len(file.read_bytes()) == length  # reading changes nothing
        folder.append_evaluation(rows(500, "reach-v3"))
        assert file.read_bytes() == whole
    file.write_bytes(whole[:before] + b"7" * 300)  # longer than what is appended over it
    folder.append_evaluation(rows(500, "reach-v3"))
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    [
        "500,0,reach-v3,10",
        "a,0,reach-v3,10,0.1,1",
        "5,0,reach-v3,10,1.5,1",
        "5,0,reach-v3,10,-0.1,1",
        "5,0,reach-v3,10,nan,1",
        "-5,0,reach-v3,10,0.1,1,1",
        "5,-1,reach-v3,10,0.1,1,1",
        "5,0,reach-v3,-10,0.1,1,1",
        f"1{'0' * 300},0,reach-v3,10,0.1,1,1",
        f"5,0,{'x' * 200_000},10,0.1,1,1",
        f"5,0,{'x' * (MAX_NAME + 1)},10,0.1,1,1",  # tables would pad all rows to it
        "5,0,reach-v3,10,nan,1,1",
        "5,0,reach-v3,10,0.1,1",  # of the older format
        "5,0,reach-v3,10,0.1,1,2,3",
        "",
    ],
)
def test_a_damaged_row_is_named(folder, line):
    with (folder.path / "evaluations.csv").open("a") as file:
        file.write(f"{line}\n0,0,reach-v3,10,0.1,1\n")
    with pytest.raises(RunFolderError, match=r"line 2 of .*evaluations\.csv is damaged") as error:
        folder.evaluations()
    assert one_sentence(error)


@pytest.mark.parametrize(
    "content", [b"", b"env_steps,seed\n", b"env_steps,seed,task,episodes,success,return"]
)
def test_a_file_without_its_header_is_refused(folder, content):
    (folder.path / "evaluations.csv").write_bytes(content)
    with pytest.raises(RunFolderError, match="does not begin with") as error:
        folder.evaluations()
    assert one_sentence(error)


def test_an_unknown_return_is_an_empty_cell(folder):
    row = Evaluation(0, 0, "reach-v3", 10, 0.5, None, 1.25)
    folder.append_evaluation([row])
    assert (folder.path / "evaluations.csv").read_text().endswith("\n0,0,reach-v3,10,0.5,,1.25\n")
    assert folder.evaluations() == [row]


@pytest.mark.parametrize(
    ("suite", "cells", "returns"),
    [
        ("mt10", "2.5", (None, 2.5)),  # episodes ended at their first success
        ("gymnasium", "7.5", (7.5, None)),
    ],
)
def test_a_table_of_an_older_version_goes_on_in_its_format(folder, suite, cells, returns):
    file = folder.path / "evaluations.csv"
    head = "env_steps,seed,task,episodes,success,return\n"
    file.write_text(f"{head}0,0,reach-v3,10,0.5,{cells}\n")
    folder.config["env"]["suite"] = suite
    [row] = folder.evaluations()
    assert row.returns == returns
    folder.append_evaluation([Evaluation(500, 0, "reach-v3", 10, 0.5, 7.5, 2.5)])
    assert file.read_text() == (
        f"{head}0,0,reach-v3,10,0.5,{cells}\n500,0,reach-v3,10,0.5,{cells}\n"
    )
    folder.rewind(None)
    assert file.read_text() == head


def test_rows_appended_on_a_full_disk_are_all_or_none(folder, monkeypatch):
    folder.append_evaluation(rows(0))
    before = (folder.path / "evaluations.csv").read_bytes()
    monkeypatch.setattr(os, "fsync", Fault(os.fsync, 0))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        folder.append_evaluation(rows(500))
    assert (folder.path / "evaluations.csv").read_bytes() == before


def curves(folder):
    return {path.name: path.read_text() for path in folder.path.glob("events*")}


def test_rewind_drops_what_came_after_a_checkpoint_and_a_torn_line(folder):
    old, new = (folder.path / f"events.out.tfevents.{n}" for n in (1, 2))
    other = folder.path / "notes.txt"
    for file in (old, other):
        file.write_text("known")
    folder.append_evaluation(rows(0) + rows(500))
    folder.save_checkpoint(500, GROUPS, {})
    for file in (old, new, other, folder.path / "evaluations.csv"):
        with file.open("a") as opened:
            opened.write("1500,0,rea")
    for _ in range(2):
        folder.rewind(folder.load_checkpoint())
        assert folder.evaluations() == rows(0) + rows(500) and curves(folder) == {old.name: "known"}
    folder.append_evaluation(rows(1000))
    assert [row.env_steps for row in folder.evaluations()] == [0, 0, 500, 500, 1000, 1000]
    folder.rewind(None)
    assert (
        folder.evaluations() == []
        and curves(folder) == {}
        and other.read_text() == "known1500,0,rea"
    )
    folder.append_evaluation(rows(0))
    assert folder.evaluations() == rows(0)


def test_a_rewind_makes_nothing_longer(folder):
    """A curve that someone has shortened meanwhile does not end with zeros."""
    file = folder.path / "events.out.tfevents.1"
    file.write_text("known")
    folder.save_checkpoint(500, GROUPS, {})
    file.write_text("kn")
    folder.rewind(folder.load_checkpoint())
    assert file.read_text() == "kn"


def test_a_rewind_that_fails_can_be_done_again(folder, monkeypatch):
    folder.append_evaluation(rows(0))
    folder.save_checkpoint(0, GROUPS, {})
    folder.append_evaluation(rows(500))
    monkeypatch.setattr(os, "fsync", Fault(os.fsync, 0))
    with pytest.raises(OSError):
        folder.rewind(folder.load_checkpoint())
    monkeypatch.undo()
    folder.rewind(folder.load_checkpoint())
    assert folder.evaluations() == rows(0)


# ---- lock ----


def try_to_lock(path, answer):
    try:
        with RunFolder.open(path).lock():
            answer.put("locked")
    except RunFolderError as error:
        answer.put(str(error))


def attempt_elsewhere(path):
    answer = fork.Queue()
    process = fork.Process(target=try_to_lock, args=(path, answer))
    process.start()
    found = answer.get(timeout=30)
    process.join()
    return found


def test_two_processes_cannot_train_in_one_folder(folder):
    with folder.lock():
        refusal = attempt_elsewhere(folder.path)
        assert "another process is training" in refusal and "\n" not in refusal
    assert attempt_elsewhere(folder.path) == "locked"


def own_a_worker(path, ready):
    with RunFolder.open(path).lock():
        worker = fork.Process(target=time.sleep, args=(20,))
        worker.start()
        ready.put(worker.pid)
        time.sleep(20)


def test_a_killed_owner_frees_the_lock_even_if_its_workers_live_on(folder):
    ready = fork.Queue()
    owner = fork.Process(target=own_a_worker, args=(folder.path, ready))
    owner.start()
    worker = ready.get(timeout=30)
    assert "another process" in attempt_elsewhere(folder.path)
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    os.kill(worker, 0)  # alive
    assert attempt_elsewhere(folder.path) == "locked"
    os.kill(worker, signal.SIGKILL)


def test_the_lock_of_a_folder_that_vanished(folder):
    for path in sorted(folder.path.rglob("*"), reverse=True):
        remove(path)
    folder.path.rmdir()
    with pytest.raises(RunFolderError, match="is not writable") as error, folder.lock():
        pass
    assert one_sentence(error)
