"""What the state machines share: how long they run, and a run's folder.

Hypothesis makes up courses of things that may happen, always the same ones unless MACHINE_EXAMPLES
says how many others to try; the models that it compares with are lists in memory.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine

from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.utils import atomic_io
from tests.support.faulty_disk import Killed, PatchedOs
from tests.support.sample_run import CONFIG

EXAMPLES = os.environ.get("MACHINE_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 60),
    stateful_step_count=30,
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink]
    if EXAMPLES
    else [Phase.generate],  # shrinking may take minutes
    report_multiple_bugs=False,
)


def fsync(handle):
    """Nobody pulls the plug; by its name a `Disk` knows it."""


class Folder(RuleBasedStateMachine):
    """A run's folder in a place of its own."""

    def __init__(self):
        super().__init__()
        self.home, self.patch = Path(tempfile.mkdtemp()), pytest.MonkeyPatch()
        self.patch.setattr(os, "fsync", fsync)
        self.patch.setattr("mtrl_fairgrad.runs.checkpoint.store._log.disabled", True)
        self.folder = RunFolder.create(self.home / "run", CONFIG, {})

    def teardown(self):
        self.patch.undo()
        shutil.rmtree(self.home)

    def on(self, disk, action):
        """What `action` raised while that disk was there, if anything."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(atomic_io, "os", PatchedOs(disk))
            try:
                action()
            except (OSError, RunFolderError, Killed) as error:
                return error
        return None
