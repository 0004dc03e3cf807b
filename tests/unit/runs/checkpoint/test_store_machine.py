"""Checkpoint stores behave like a model under any sequence of saves, faults and damage."""

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis.stateful import initialize, invariant, rule
from hypothesis.strategies import booleans, integers, sampled_from

from mtrl_fairgrad.runs.checkpoint.index import Index
from mtrl_fairgrad.runs.checkpoint.store import steps_of
from mtrl_fairgrad.runs.run_dir import CheckpointError, RunFolder
from tests.support.faulty_disk import Disk, Killed
from tests.support.sample_run import Rows, rows
from tests.support.state_machines import SETTINGS, Folder

keeps = sampled_from([2, 3, 1])
calls = integers(0, 60)  # how many succeed; a save makes fewer


@dataclass
class Saved:
    """A checkpoint as the model knows it."""

    course: list[float]
    """The values of all rows ever added."""
    files: dict[str, bytes]
    """Of its own and of its segments, as they were written."""
    evaluations: bytes


def groups(course):
    return {"agent": {"w": torch.tensor([len(course), *(course[-1:] or [0.0])])}}


class Store(Folder):
    """The replay and the checkpoints: rows are numbers that never come twice, env_steps count those
    of a course.
    """

    @initialize(capacity=integers(1, 7), small=sampled_from([0, 40]))
    def begin(self, capacity, small):
        self.capacity, self.small, self.numbers = capacity, small, itertools.count(1)
        self.folder.store.small = small
        self.ring, self.course, self.saved = Rows(capacity, 2), [], {}
        self.damaged = set()
        """Files that are not as they were written."""
        self.base = None
        """Name of what this process goes on from, or saved last; "?" after a failure."""

    # ---- the model ----

    def names(self):
        return [path.name for path in self.folder.checkpoints()]

    def note(self):
        """Learn what is there now, after something was saved, or not, or in part."""
        there = self.names()
        new = [name for name in there if name not in self.saved]
        assert len(new) <= 1
        for name in new:
            checkpoint = self.folder.store.path / name
            segments = [
                self.folder.store.segments / each.name
                for each in Index.read(checkpoint).ring.segments
            ]
            content = {
                str(file.relative_to(self.folder.path)): file.read_bytes() for file in segments
            }
            content |= {
                str(file.relative_to(self.folder.path)): file.read_bytes()
                for file in checkpoint.iterdir()
            }
            self.saved[name] = Saved(
                list(self.course), content, (self.folder.path / "evaluations.csv").read_bytes()
            )
        self.saved = {name: self.saved[name] for name in there}

    def is_sound(self, name):
        run, saved = self.folder.path, self.saved[name]
        same = (
            (run / file).is_file() and (run / file).read_bytes() == data
            for file, data in saved.files.items()
        )
        return all(same) and (run / "evaluations.csv").read_bytes().startswith(saved.evaluations)

    def sound(self):
        """Newest first."""
        return [name for name in self.names() if self.is_sound(name)]

    # ---- training ----

    @rule(count=integers(1, 9), evaluating=booleans())
    def train(self, count, evaluating):
        values = [float(number) for number in itertools.islice(self.numbers, count)]
        self.ring.add(*values)
        self.course += values
        if evaluating and all(
            row.env_steps < len(self.course) for row in self.folder.evaluations()
        ):
            self.folder.append_evaluation(rows(len(self.course)))

    def save_now(self, keep):
        found, course = groups(self.course), self.course
        self.folder.save_checkpoint(len(course), found, {"last": course[-1:]}, keep, self.ring)

    @rule(count=integers(0, 9), evaluating=booleans(), keep=keeps)
    def save(self, count, evaluating, keep):
        self.train(count, evaluating)
        before, base = self.names(), self.base
        self.save_now(keep)
        self.note()
        new, *others = self.names()
        assert new not in before and self.is_sound(new)
        if base != "?":
            earlier = before if base is None else before[before.index(base) :]
            assert others == earlier[: keep - 1]
        self.base = new

    # ---- what may happen meanwhile ----

    @rule(keep=keeps, allowed=calls, fault=sampled_from(["once", "full"]), again=booleans())
    def the_disk_refuses(self, keep, allowed, fault, again):
        before = self.sound()
        error = self.on(Disk(allowed, fault), lambda: self.save_now(keep))
        assert error is None or (isinstance(error, CheckpointError) and str(error).endswith("."))
        self.note()
        self.base = "?"
        assert bool(self.sound()) >= bool(before)
        if not again:
            self.reopen(None, False)

    @rule(keep=keeps, allowed=calls, fault=sampled_from(["killed", "power"]), copy=booleans())
    def the_process_ends(self, keep, allowed, fault, copy):
        before, disk = self.sound(), Disk(allowed, fault)
        error = self.on(disk, lambda: self.save_now(keep))
        assert error is None or isinstance(error, Killed)
        if error is not None and fault == "power":
            disk.lose_what_was_not_synced(self.folder.path)
        self.note()
        assert bool(self.sound()) >= bool(before)
        self.reopen(None, copy)

    def dispensable(self, kind):
        """Files that not all sound checkpoints need."""
        needed = [set(self.saved[name].files) for name in self.sound()]
        return sorted(
            file for file in set().union(*needed) - set.intersection(*needed) if kind in file
        )

    @rule(
        kind=sampled_from(["segments", "checkpoints"]),
        which=integers(0, 99),
        place=integers(0, 10**6),
        how=sampled_from(["flip", "truncate", "delete"]),
    )
    def damage(self, kind, which, place, how):
        self.save_several()
        files = self.dispensable(kind) or self.dispensable("checkpoints")
        self.damaged.add(chosen := files[which % len(files)])
        file = self.folder.path / chosen
        data = file.read_bytes() if file.exists() else b""
        if how == "delete" or not data:
            file.unlink(missing_ok=True)
        else:
            place %= len(data)
            file.write_bytes(
                data[:place] + (bytes([data[place] ^ 0x21]) + data[place + 1 :]) * (how == "flip")
            )
        if (
            how == "flip"
        ):  # in time to be noticed: nobody reads segments again and again while training goes on
            self.reopen(None, False)

    def save_several(self):
        while len(self.sound()) < 2 or self.sound()[0] != self.names()[0]:
            self.save(2, False, 3)

    # ---- going on ----

    def check_resumed(self, folder, name, env_steps):
        """A process finds exactly what the model knows; returns that, and the buffer."""
        ring, expected = Rows(self.capacity, 2), self.saved[name].course
        found = folder.resume_checkpoint(groups([]), ring, env_steps)
        assert found.env_steps == len(expected) == ring.added and found.state == {
            "last": expected[-1:]
        }
        assert torch.equal(found.groups["agent"]["w"], groups(expected)["agent"]["w"])
        for number in range(max(len(expected) - self.capacity, 0), len(expected)):
            assert ring.rows[number % self.capacity].tolist() == [expected[number]] * 2
        return found, ring

    @rule(older=sampled_from([None, None, 0, 1, 2]), copy=booleans())
    def reopen(self, older, copy):
        """Another process goes on, from the newest checkpoint or another, perhaps in a copy of the
        folder.
        """
        if older:
            self.save_several()
        path = self.folder.path
        if copy:
            path = shutil.copytree(path, path.with_name(path.name + "+"))
            shutil.rmtree(self.folder.path)
        self.folder = RunFolder.open(path)
        self.folder.store.small = self.small
        with self.folder.lock():
            self.folder.clean()
            self.check_swept()
        sound = self.sound()
        if not sound:
            assert not self.saved, "something sound is always left"
            self.ring, self.course, self.base = Rows(self.capacity, 2), [], None
            self.folder.rewind(None)
            assert self.folder.evaluations() == []
            return
        env_steps = None if older is None else steps_of(Path(sound[older % len(sound)]))
        self.base = next(name for name in sound if env_steps in (None, steps_of(Path(name))))
        found, self.ring = self.check_resumed(self.folder, self.base, env_steps)
        self.course = list(self.saved[self.base].course)
        self.folder.rewind(found)
        assert (self.folder.path / "evaluations.csv").read_bytes() == self.saved[
            self.base
        ].evaluations

    def check_swept(self):
        """Nothing is there that no checkpoint needs, unless a damaged index hides what it needs."""
        assert not list(self.folder.path.rglob(".*.tmp"))
        there = {
            str(file.relative_to(self.folder.path)) for file in self.folder.store.path.rglob("*.*")
        }
        needed = {file for saved in self.saved.values() for file in saved.files}
        whole = all(self.is_written(file) for file in needed if file.endswith("index.json"))
        assert there <= needed or not whole

    def is_written(self, file):
        path = self.folder.path / file
        return path.is_file() and any(
            path.read_bytes() == saved.files.get(file) for saved in self.saved.values()
        )

    @invariant()
    def what_nobody_damaged_is_as_it_was_written(self):
        for saved in getattr(self, "saved", {}).values():
            for file, data in saved.files.items():
                assert file in self.damaged or (self.folder.path / file).read_bytes() == data

    @invariant()
    def the_newest_sound_checkpoint_can_be_resumed(self):
        if not hasattr(self, "saved"):
            return
        if sound := self.sound():
            self.check_resumed(RunFolder.open(self.folder.path), sound[0], None)
        else:
            assert not self.saved


TestStore = pytest.mark.exhaustive(Store.TestCase)
TestStore.settings = SETTINGS
