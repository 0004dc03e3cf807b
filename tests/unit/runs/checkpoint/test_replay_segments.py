"""The replay on the disk: only what is new is written, and it comes back as it was."""

import errno
import os
import random

import pytest
import torch

from mtrl_fairgrad.runs.checkpoint.replay_segments import RingRecord, load_rows, save_rows
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.utils.atomic_io import RunFolderError
from tests.support.sample_run import CONFIG, GROUPS, Rows, rows


def written(folder):
    """Ranges of rows, as the names of the files tell."""
    return sorted(tuple(map(int, path.name.split("-")[:2])) for path in folder.glob("*.rows"))


@pytest.mark.parametrize("part", [8, 24, 2**24])
def test_each_save_writes_the_new_rows_alone(tmp_path, monkeypatch, part):
    """Also around the ring's end, whatever is copied at a time."""
    monkeypatch.setattr("mtrl_fairgrad.runs.checkpoint.replay_segments._PART", part)
    ring, record = Rows(10, 2), None
    for count, expected in (
        (4, [(0, 4)]),
        (3, [(0, 4), (4, 7)]),
        (0, [(0, 4), (4, 7)]),
        (5, [(0, 4), (4, 7), (7, 12)]),
        (2, [(4, 7), (7, 12), (12, 14)]),
        (25, [(29, 39)]),
    ):
        ring.add(*range(ring.added, ring.added + count))
        before = written(tmp_path)
        record = save_rows(tmp_path, ring, record, small=0)
        assert [(segment.start, segment.stop) for segment in record.segments] == expected
        assert set(written(tmp_path)) == {*before, *expected}
        restored = Rows(10, 2)
        load_rows(tmp_path, record, restored)
        assert restored.added == ring.added and torch.equal(
            restored.rows[: ring.added], ring.rows[: ring.added]
        )


def test_small_segments_are_written_anew_with_what_follows(tmp_path):
    ring, record = Rows(10, 2), None
    for expected in (
        [(0, 2)],
        [(0, 4)],
        [(0, 4), (4, 6)],
        [(0, 4), (4, 8)],
        [(0, 4), (4, 8), (8, 10)],
    ):
        ring.add(1, 2)
        record = save_rows(tmp_path, ring, record, small=4 * 8)
        assert [(segment.start, segment.stop) for segment in record.segments] == expected


def test_a_segment_that_went_missing_is_no_base_to_build_on(tmp_path):
    ring = Rows(10, 2)
    ring.add(1, 2, 3)
    record = save_rows(tmp_path, ring, None, small=0)
    next(tmp_path.glob("*.rows")).unlink()
    ring.add(4)
    assert written(tmp_path) == [] and len(save_rows(tmp_path, ring, record, small=0).segments) == 1
    assert written(tmp_path) == [(0, 4)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rows_of_every_type_come_back_bit_for_bit(tmp_path, dtype):
    ring, restored = Rows(5, 2, 3), Rows(5, 2, 3)
    ring.rows, restored.rows = (
        torch.randn(5, 2, 3, dtype=torch.float64).to(dtype),
        restored.rows.to(dtype),
    )
    ring.added = 5
    ring.rows[1, 0, 0] = torch.nan
    record = save_rows(tmp_path, ring, None)
    assert (
        record.fits(restored) and not record.fits(Rows(5, 3, 2)) and not record.fits(Rows(6, 2, 3))
    )
    load_rows(tmp_path, record, restored)
    assert torch.equal(restored.rows.view(torch.uint8), ring.rows.view(torch.uint8))


def test_a_large_buffer_is_written_and_read_in_parts(tmp_path, monkeypatch):
    """No call sees more than a part: memory is not doubled."""
    sizes = []
    write = os.write
    monkeypatch.setattr(
        os, "write", lambda handle, data: sizes.append(len(data)) or write(handle, data)
    )
    ring = Rows(2**20, 24)  # 96 MiB
    ring.added = 3 * 2**19
    record = save_rows(tmp_path, ring, None)
    assert sum(sizes) == ring.rows.nbytes and max(sizes) <= 2**24
    load_rows(tmp_path, record, ring)
    assert ring.added == 3 * 2**19


def test_what_is_read_back_wrongly_is_not_taken_for_written(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(
        os, "write", lambda handle, data: write(handle, bytes([data[0] ^ 1]) + bytes(data[1:]))
    )
    ring = Rows(4, 2)
    ring.add(1, 2)
    with pytest.raises(OSError, match="read back") as error:
        save_rows(tmp_path, ring, None)
    assert error.value.errno == errno.EIO and written(tmp_path) == []


def test_an_empty_buffer_has_no_segments(tmp_path):
    record = save_rows(tmp_path, Rows(4, 2), None)
    assert record == RingRecord((4, 2), "float32", 0, ()) and written(tmp_path) == []
    ring = Rows(4, 2)
    load_rows(tmp_path, record, ring)
    assert ring.added == 0


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:3] + b"\1" + b[4:], None]
)
def test_damage_is_named(tmp_path, damage):
    ring = Rows(4, 2)
    ring.add(1, 2)
    record = save_rows(tmp_path, ring, None)
    [path] = tmp_path.glob("*.rows")
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    with pytest.raises(RunFolderError, match=path.name):
        load_rows(tmp_path, record, Rows(4, 2))


# ---- any course of things against a list ----


def the_last(model, capacity):
    """Row number → its value, of those that a buffer holds."""
    return {n: model[n] for n in range(max(len(model) - capacity, 0), len(model))}


def held(ring):
    return {
        n: float(ring.rows[n % len(ring.rows), 0])
        for n in range(max(ring.added - len(ring.rows), 0), ring.added)
    }


@pytest.mark.parametrize("seed", range(25))
def test_any_course_of_saving_damage_and_going_on_agrees_with_a_list(tmp_path, monkeypatch, seed):
    """Adds, saves, new processes, flipped bytes; a list of all values ever added, and copies of it,
    are the model.
    """
    monkeypatch.setattr("os.fsync", lambda handle: None)
    luck = random.Random(seed)
    capacity, small = luck.randint(1, 12), luck.choice([0, 0, 40])
    folder = RunFolder.create(tmp_path / "run", CONFIG, {})
    folder.store.small = small
    ring, model, saved = Rows(capacity, 2), [], {}
    for _ in range(40):
        action = luck.choice(["add", "add", "save", "save", "again", "damage"])
        if action == "add":
            values = [luck.random() for _ in range(luck.randint(1, 6))]
            ring.add(*values)
            model += [float(torch.tensor(value)) for value in values]
        elif action == "save":
            folder.append_evaluation(rows(len(model)))
            folder.save_checkpoint(len(model), GROUPS, {"at": len(model)}, ring=ring)
            saved = {
                name: kept for name, kept in saved.items() if (folder.store.path / name).exists()
            }
            saved[folder.checkpoints()[0].name] = list(model)
        elif saved:
            sound = list(saved)
            if action == "damage" and len(saved) == 2:
                sound.remove(max(saved))
                file = luck.choice(sorted((folder.store.path / max(saved)).iterdir()))
                data = bytearray(file.read_bytes())
                data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
                file.write_bytes(data)
            folder, ring = RunFolder.open(folder.path), Rows(capacity, 2)
            folder.store.small = small
            found = folder.resume_checkpoint(GROUPS, ring)
            assert found.state == {"at": ring.added}
            folder.rewind(found)
            model = list(saved[max(sound)])
            saved = {name: saved[name] for name in sound}
        assert ring.added == len(model) and held(ring) == the_last(model, capacity)
    assert len(list(folder.store.segments.glob("*.rows"))) <= 2 * capacity + 2
