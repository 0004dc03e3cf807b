"""Each call that changes the disk fails once, fails from then on, or ends the process."""

import os
import random

import pytest
import torch

from mtrl_fairgrad.runs.checkpoint.index import Index, check_file
from mtrl_fairgrad.runs.checkpoint.store import steps_of
from mtrl_fairgrad.runs.run_dir import CheckpointError, RunFolder, RunFolderError
from mtrl_fairgrad.utils import atomic_io
from tests.support.faulty_disk import Disk, Killed, PatchedOs
from tests.support.sample_run import CONFIG, Rows, one_sentence, rows

STEPS = (500, 1000, 1500)


def groups(env_steps):
    return {"agent": {"w": torch.full((3,), float(env_steps))}}


def save(folder, ring, env_steps):
    ring.add(*range(ring.added, ring.added + 4))
    folder.append_evaluation(rows(env_steps))
    folder.save_checkpoint(env_steps, groups(env_steps), {"at": env_steps}, ring=ring)


def filled(count):
    ring = Rows(6, 2)
    ring.add(*range(count))
    return ring


def check(path, completed, begun):
    """A new process finds all of the last completed checkpoint, or of the one begun after it;
    returns where it is.
    """
    folder, ring = RunFolder.open(path), Rows(6, 2)
    folder.store.small = 0
    with folder.lock():
        folder.clean()
        assert not list(path.rglob(".*.tmp"))
        found = folder.resume_checkpoint(groups(0), ring)
        assert found.env_steps in STEPS[max(completed - 1, 0) : begun]
        assert found.state == {"at": found.env_steps}
        assert torch.equal(found.groups["agent"]["w"], groups(found.env_steps)["agent"]["w"])
        expected = filled(4 * (STEPS.index(found.env_steps) + 1))
        assert ring.added == expected.added and torch.equal(
            ring.rows[: ring.added], expected.rows[: ring.added]
        )
        folder.rewind(found)
        assert [row.env_steps for row in folder.evaluations()[::2]] == list(
            STEPS[: STEPS.index(found.env_steps) + 1]
        )
        for path in folder.checkpoints():  # nothing half-written or half-removed passes for one
            assert folder.load_checkpoint(steps_of(path)).state == {"at": steps_of(path)}
        return folder, ring, found.env_steps


def go_on(folder, ring, reached):
    """And it can finish as if nothing had happened."""
    for env_steps in STEPS[STEPS.index(reached) + 1 :]:
        save(folder, ring, env_steps)
    check(folder.path, 3, 3)
    assert len(list(folder.store.segments.iterdir())) == 3, (
        "12 rows of 4 each were needed by the last two"
    )


def attempt(path, allowed, fault, monkeypatch):
    """Save three checkpoints until the fault; returns what was complete, what was begun, the disk,
    and the parts.
    """
    monkeypatch.undo()
    folder, ring, completed = RunFolder.create(path, CONFIG, {}), Rows(6, 2), 0
    folder.store.small = 0
    disk = Disk(allowed, fault)
    monkeypatch.setattr(atomic_io, "os", PatchedOs(disk))
    try:
        for env_steps in STEPS:
            save(folder, ring, env_steps)
            completed += 1
    except (CheckpointError, OSError, Killed) as error:
        raised = error
    else:
        raised = None
    monkeypatch.undo()
    told = {
        "once": (CheckpointError, OSError),
        "full": (CheckpointError, OSError),
        "killed": Killed,
        "power": Killed,
    }
    assert raised is None if completed == 3 else isinstance(raised, told[fault])
    if fault == "full" and completed < 3:
        held = {
            segment.name
            for found in folder.checkpoints()
            for segment in Index.read(found).ring.segments
        }
        assert {file.name for file in folder.store.segments.glob("*")} <= held, (
            "what is of no use takes no room"
        )
        assert not list(path.rglob(".*.tmp"))
    if isinstance(raised, CheckpointError):
        assert "is safe" in str(raised) or (
            completed == 0 and "there is no checkpoint yet" in str(raised)
        )
        assert "\n" not in str(raised) and str(raised).endswith(
            f"then continue with python -m mtrl_fairgrad.train resume={path}."
        )
    return completed, min(completed + 1, 3), disk, folder, ring


def calls_in_all(path, monkeypatch):
    completed, _, disk, *_ = attempt(path, 10**9, "once", monkeypatch)
    assert completed == 3
    assert disk.calls.keys() == {
        "open",
        "write",
        "ftruncate",
        "fsync",
        "mkdir",
        "replace",
        "unlink",
        "rmdir",
    }
    return sum(disk.calls.values())


@pytest.mark.parametrize("fault", ["once", "full", "killed", "power"])
def test_whichever_call_fails_the_old_checkpoint_or_the_new_one_is_there(
    fault, tmp_path, monkeypatch
):
    total = calls_in_all(tmp_path / "whole", monkeypatch)
    assert total > 70
    for n in range(total):
        path = tmp_path / str(n)
        completed, begun, disk, *_ = attempt(path, n, fault, monkeypatch)
        if fault == "power":
            disk.lose_what_was_not_synced(path)
        monkeypatch.setattr(os, "fsync", lambda handle: None)
        if completed == 0 and not RunFolder.open(path).has_checkpoint():
            with pytest.raises(RunFolderError, match="has no checkpoint"):
                RunFolder.open(path).resume_checkpoint(groups(0))
            continue
        go_on(*check(path, completed, begun))


@pytest.mark.parametrize("fault", ["once", "full"])
def test_the_same_process_can_try_again(fault, tmp_path, monkeypatch):
    for n in range(0, calls_in_all(tmp_path / "whole", monkeypatch), 3):
        completed, _, _, folder, ring = attempt(tmp_path / str(n), n, fault, monkeypatch)
        monkeypatch.setattr(os, "fsync", lambda handle: None)
        for env_steps in STEPS[completed:]:
            ring.added = min(ring.added, 4 * STEPS.index(env_steps))
            before = [row for row in folder.evaluations() if row.env_steps < env_steps]
            folder.rewind(None)
            folder.append_evaluation(before)
            save(folder, ring, env_steps)
        _, again, reached = check(folder.path, 3, 3)
        assert reached == 1500 and again.added == 12


# ---- damage ----


def sound(folder):
    """All parts of the only checkpoint are read."""
    return folder.resume_checkpoint(groups(0), Rows(6, 2)).env_steps == 500


def check_digests(folder):
    """What `sound` begins with, and no more."""
    [path] = folder.checkpoints()
    index = Index.read(path)
    for name in index.files:
        index.check(path, name)
    for segment in index.ring.segments:
        check_file(folder.store.segments / segment.name, index.ring.content(segment))


def a_checkpoint(path):
    folder, ring = RunFolder.create(path, CONFIG, {}), Rows(6, 2)
    folder.store.small = 0
    save(folder, ring, 500)
    [checkpoint] = folder.checkpoints()
    assert sound(folder)
    return folder, sorted([*checkpoint.iterdir(), *folder.store.segments.iterdir()])


def test_2000_flipped_bytes_are_noticed_and_named(tmp_path):
    folder, files = a_checkpoint(tmp_path / "run")
    wholes = {file: file.read_bytes() for file in files}
    places = [(file, place) for file, whole in wholes.items() for place in range(len(whole))]
    luck = random.Random(0)
    for file, place in luck.choices(places, k=2000):
        damaged = bytearray(wholes[file])
        damaged[place] ^= luck.randrange(1, 256)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=file.name):
            check_digests(folder)
        file.write_bytes(wholes[file])
    assert sound(folder)


def test_every_truncation_addition_and_loss_is_noticed_and_named(tmp_path):
    folder, files = a_checkpoint(tmp_path / "run")
    assert len(files) == 4
    for file in files:
        whole = file.read_bytes()
        for version in [*(whole[:n] for n in range(len(whole))), whole + b"\n", None]:
            file.unlink() if version is None else file.write_bytes(version)
            with pytest.raises(CheckpointError, match=file.name) as error:
                sound(folder)
            assert one_sentence(error)
        file.write_bytes(whole)
    assert sound(folder)
