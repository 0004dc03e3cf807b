import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from mtrl_fairgrad.runs import CheckpointError, RunFolder
from tests.run_folders import CONFIG, GROUPS, Fault, fork, one_sentence, rows


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", CONFIG, {"overrides": ["alpha=2"]})


def same(left, right):
    assert left.keys() == right.keys()
    for key, tensor in left.items():
        assert tensor.dtype == right[key].dtype and tensor.shape == right[key].shape
        assert torch.equal(tensor.nan_to_num(), right[key].nan_to_num())
    return True


def test_tensors_of_every_kind_come_back(folder):
    base = torch.arange(12.0).reshape(3, 4)
    agent = {
        "float64": torch.tensor([1e-300, torch.nan, torch.inf], dtype=torch.float64),
        "bfloat16": torch.ones(3, dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
        "uint8": torch.arange(256).to(torch.uint8),
        "int64": torch.tensor(-(2**62)),
        "empty": torch.zeros(0, 3),
        "empty_too": torch.zeros(0),
        "whole": base,
        "alias": base,
        "transposed": base.T,
        "slice": base[1:, 2:],
        "row": base[1],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "expanded": torch.ones(1).expand(4),
    }
    state = {"rng": 2**80, "nested": {"a": [1.5, None, True]}, "α": "ü"}
    folder.save_checkpoint(500, {"agent": agent, "none": {}}, state)
    found = RunFolder.open(folder.path).load_checkpoint()
    assert found.env_steps == 500 and found.state == state
    assert found.groups.keys() == {"agent", "none"}
    assert same({key: tensor.detach() for key, tensor in agent.items()}, found.groups["agent"])


def test_loaded_tensors_do_not_hang_on_the_file(folder):
    path = folder.save_checkpoint(500, GROUPS, {})
    found = folder.load_checkpoint()
    (path / "agent.safetensors").write_bytes(b"")
    assert same(found.groups["agent"], GROUPS["agent"])
    found.groups["agent"]["w"].add_(1)  # and may be written to


def test_nothing_but_safetensors_and_json_is_stored(folder):
    path = folder.save_checkpoint(500, GROUPS, {"n": 1})
    names = {file.name for file in path.iterdir()}
    assert names == {"agent.safetensors", "replay.safetensors", "state.json", "checksums.json"}
    with pytest.raises(TypeError):
        folder.save_checkpoint(600, {}, {"tensor": torch.ones(1)})
    assert [file.name for file in (folder.path / "checkpoints").iterdir()] == [path.name]


def test_only_the_newest_are_kept(folder):
    for env_steps in (500, 1000, 99_999_999_999_999):
        folder.save_checkpoint(env_steps, GROUPS, {"at": env_steps})
        assert [path.name for path in folder.checkpoints()] == [f"{env_steps:012d}"]
    assert folder.load_checkpoint().state == {"at": 99_999_999_999_999}


def test_more_are_kept_on_request(folder):
    for env_steps in (500, 1000, 1500):
        folder.save_checkpoint(env_steps, GROUPS, {"at": env_steps}, keep=2)
    assert [path.name for path in folder.checkpoints()] == ["000000001500", "000000001000"]
    assert folder.load_checkpoint(1000).state == {"at": 1000}
    with pytest.raises(CheckpointError, match="no checkpoint at env_steps=500: choose from 1500, 1000") as error:
        folder.load_checkpoint(500)
    assert one_sentence(error)


def test_a_second_checkpoint_at_the_same_step_counts(folder):
    for attempt in range(12):
        folder.save_checkpoint(500, GROUPS, {"attempt": attempt}, keep=2)
        assert folder.load_checkpoint().state == folder.load_checkpoint(500).state == {"attempt": attempt}
    assert len(folder.checkpoints()) == 2


def test_only_the_groups_asked_for_are_read(folder):
    path = folder.save_checkpoint(500, GROUPS, {"n": 1})
    (path / "replay.safetensors").write_bytes(b"damaged")
    found = folder.load_checkpoint(groups=["agent"])
    assert found.groups.keys() == {"agent"} and found.state == {"n": 1}
    with pytest.raises(CheckpointError, match="replay"):
        folder.load_checkpoint()
    with pytest.raises(CheckpointError, match="not all of critic"):
        folder.load_checkpoint(groups=["critic"])


def test_a_run_without_a_checkpoint_says_so(folder):
    with pytest.raises(CheckpointError, match="ended before its first checkpoint") as error:
        folder.load_checkpoint()
    assert one_sentence(error)


def test_every_flipped_byte_and_every_truncation_is_noticed(folder):
    path = folder.save_checkpoint(500, {"agent": {"w": torch.arange(3.0)}}, {"n": 1})
    damaged = 0
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        versions = [whole[:n] + bytes([whole[n] ^ 1 << n % 8]) + whole[n + 1 :] for n in range(len(whole))]
        versions += [whole[:n] for n in range(len(whole))] + [whole + b"\n"]
        for version in versions:
            file.write_bytes(version)
            with pytest.raises(CheckpointError, match=file.name) as error:
                folder.load_checkpoint()
            assert one_sentence(error)
            damaged += 1
        file.unlink()
        with pytest.raises(CheckpointError, match=file.name):
            folder.load_checkpoint()
        file.write_bytes(whole)
    assert damaged > 500
    assert folder.load_checkpoint().state == {"n": 1}


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(folder, caplog):
    folder.save_checkpoint(500, GROUPS, {"at": 500})
    newest = folder.save_checkpoint(1000, GROUPS, {"at": 1000}, keep=2)
    (newest / "replay.safetensors").write_bytes(b"")
    found = folder.load_checkpoint()
    assert found.env_steps == 500 and found.state == {"at": 500}
    assert "replay.safetensors is damaged" in caplog.text
    # The course goes on from 500; what it saves before 1000 must not lose against the damaged checkpoint.
    folder.save_checkpoint(750, GROUPS, {"at": 750})
    assert [path.name for path in folder.checkpoints()] == ["000000000750"]
    assert folder.load_checkpoint().state == {"at": 750}


@pytest.mark.parametrize(("owner", "call", "calls"), [(os, "fsync", 6), (Path, "rename", 2)])
def test_no_failing_call_loses_the_last_checkpoint(folder, monkeypatch, owner, call, calls):
    folder.save_checkpoint(500, GROUPS, {"at": 500})
    for allowed in range(calls):
        monkeypatch.setattr(owner, call, Fault(getattr(owner, call), allowed))
        with pytest.raises(CheckpointError, match="make room") as error:
            folder.save_checkpoint(1000, GROUPS, {"at": 1000})
        monkeypatch.undo()
        assert one_sentence(error)
        assert folder.load_checkpoint().state in ({"at": 500}, {"at": 1000})
        assert list((folder.path / "checkpoints").glob(".*")) == []
    folder.save_checkpoint(1000, GROUPS, {"at": 1000})
    assert folder.load_checkpoint().state == {"at": 1000}


def test_a_kill_at_any_write_leaves_only_sound_checkpoints(folder, tmp_path, monkeypatch):
    folder.save_checkpoint(500, GROUPS, {"at": 500})
    sync, images = os.fsync, []

    def photograph(handle):
        images.append(tmp_path / f"image{len(images)}")
        shutil.copytree(folder.path, images[-1])
        sync(handle)

    monkeypatch.setattr(os, "fsync", photograph)
    folder.save_checkpoint(1000, GROUPS, {"at": 1000})
    newest = []
    for image in images:
        again = RunFolder.open(image)
        assert all(again.load_checkpoint(int(path.name)).groups for path in again.checkpoints())
        newest.append(again.load_checkpoint().env_steps)
    assert newest == [500] * 5 + [1000]  # four files, their folder; then, renamed, the folder above


def test_what_a_killed_process_left_is_no_checkpoint_and_is_swept_by_the_next(folder):
    path = folder.save_checkpoint(500, GROUPS, {"at": 500})
    partial = path.parent / ".000000001000.tmp"
    partial.mkdir()
    (partial / "agent.safetensors").write_bytes((path / "agent.safetensors").read_bytes()[:9])
    (folder.path / ".evaluations.csv.tmp").write_text("env_st")
    again = RunFolder.open(folder.path)
    assert again.load_checkpoint().state == {"at": 500}
    assert partial.exists()  # someone who only reads leaves it to the writer
    with again.lock():
        assert not partial.exists() and not (folder.path / ".evaluations.csv.tmp").exists()
    assert again.load_checkpoint().state == {"at": 500}


def write_for_ever(path, first):
    torch.set_num_threads(1)
    folder = RunFolder.open(path)
    with folder.lock():
        for env_steps in range(first, first + 10**6):
            folder.append_evaluation(rows(env_steps))
            folder.save_checkpoint(env_steps, GROUPS, {"at": env_steps}, keep=1 + env_steps % 2)


def test_killed_at_any_moment_the_folder_resumes_without_gap_or_double_row(folder):
    luck, reached = random.Random(0), 0
    for _ in range(15):
        writer = fork.Process(target=write_for_ever, args=(folder.path, reached + 1))
        writer.start()
        time.sleep(luck.uniform(0.02, 0.15))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        again = RunFolder.open(folder.path)
        with again.lock():
            if again.has_checkpoint():
                found = again.load_checkpoint()
                assert found.state == {"at": found.env_steps} and same(found.groups["agent"], GROUPS["agent"])
                assert found.env_steps >= reached
                reached = found.env_steps
            for path in again.checkpoints():  # nothing half-written or half-removed passes for one
                assert again.load_checkpoint(int(path.name)).env_steps == int(path.name)
            again.rewind(reached)
        steps = [row.env_steps for row in again.evaluations()]
        assert steps == [step for step in range(1, reached + 1) for _ in range(2)]
    assert reached > 15
