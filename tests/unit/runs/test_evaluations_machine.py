"""Any course of appending, failures and going back leaves the rows and curves that a model has."""

import pytest
from hypothesis.stateful import invariant, rule
from hypothesis.strategies import integers, sampled_from

from mtrl_fairgrad.runs.run_dir import RunFolder
from tests.support.faulty_disk import Disk
from tests.support.sample_run import GROUPS, rows
from tests.support.state_machines import SETTINGS, Folder

CURVES = ("events.out.tfevents.1", "events.out.tfevents.2", "metrics.csv")


class Evaluations(Folder):
    """What is measured: rows and curves, cut where a process died, and set back to a checkpoint."""

    def __init__(self):
        super().__init__()
        self.rows, self.curve, self.at, self.saved = [], b"", 0, None

    def block(self, count):
        self.at += 1
        return rows(self.at, *[f"task {n}" for n in range(count)])

    @rule(count=integers(1, 3))
    def append(self, count):
        block = self.block(count)
        self.folder.append_evaluation(block)
        self.rows = self.rows + block

    @rule(count=integers(1, 3), allowed=integers(0, 5), fault=sampled_from(["once", "full"]))
    def the_disk_refuses(self, count, allowed, fault):
        block = self.block(count)
        if self.on(Disk(allowed, fault), lambda: self.folder.append_evaluation(block)) is None:
            self.rows = self.rows + block

    @rule(count=integers(1, 3), allowed=integers(0, 3))
    def the_process_ends(self, count, allowed):
        """Whole rows of the block may be there, from its beginning."""
        block = self.block(count)
        self.on(Disk(allowed, "killed"), lambda: self.folder.append_evaluation(block))
        self.folder = RunFolder.open(self.folder.path)
        written = len(self.folder.evaluations()) - len(self.rows)
        self.rows = self.rows + block[: max(written, 0)]

    @rule(text=sampled_from(["7", "7,0,reach-v3,10,0.", "7,0,reach-v3,10,0.1,1", '"', "\x00"]))
    def a_line_is_torn(self, text):
        with (self.folder.path / "evaluations.csv").open("a") as file:
            file.write(text)
        assert self.folder.evaluations() == self.rows
        self.append(1)

    @rule(count=integers(1, 99), name=sampled_from(CURVES))
    def draw(self, count, name):
        with (self.folder.path / name).open("ab") as file:
            file.write(b"." * count)

    def curves(self):
        paths = (self.folder.path / name for name in CURVES)
        return {path.name: path.read_bytes() for path in paths if path.exists()}

    @rule()
    def save(self):
        self.folder.save_checkpoint(self.at, GROUPS, {})
        self.saved = self.rows, self.curves()

    @rule(allowed=integers(0, 6), fault=sampled_from(["once", "killed", "none"]))
    def go_back(self, allowed, fault):
        self.folder = RunFolder.open(self.folder.path)
        found = None if self.saved is None else self.folder.load_checkpoint()
        if fault != "none":
            self.on(Disk(allowed, fault), lambda: self.folder.rewind(found))
        self.folder.rewind(found)
        self.rows, curves = self.saved or ([], {})
        assert self.curves() == curves

    @invariant()
    def all_rows_are_there_once(self):
        assert RunFolder.open(self.folder.path).evaluations() == self.rows


TestEvaluations = pytest.mark.exhaustive(Evaluations.TestCase)
TestEvaluations.settings = SETTINGS
