"""What the tests of runs share: a tiny configuration, and what a run left."""

import csv
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from mtrl_fairgrad.config.groups import config_dir
from mtrl_fairgrad.config.schema import from_hydra
from mtrl_fairgrad.runs.checkpoint.index import Index
from mtrl_fairgrad.runs.checkpoint.replay_segments import load_rows
from mtrl_fairgrad.runs.checkpoint.store import steps_of
from mtrl_fairgrad.runs.run_dir import RunFolder
from tests.support.sample_run import Rows

COMMON = [
    "env.workers=0",
    "eval.workers=0",
    "eval.every=40",
    "eval.episodes=1",
    "steps=100",
    "log_every=10",
    "agent.width=16",
    "agent.batch_size=8",
    "agent.buffer_size=90",
    "agent.warmup_steps=15",
    "progress=false",
    "threads=1",
]

# Two tasks of Meta-World: for tests of what only it has. MuJoCo makes a run of seconds of it.
TINY = ["env.tasks=[reach-v3,drawer-close-v3]", "env.horizon=20", *COMMON]
TASKS = ["reach-v3", "drawer-close-v3"]
ONE = ["env.tasks=[reach-v3]"]

# Two tasks without MuJoCo, with episodes of 20 steps each: for tests of run mechanics.
POINT_MASS_TASKS = ["tests.support.point_mass:Near-v0", "tests.support.point_mass:Far-v0"]
POINT_MASS = ["env=gymnasium", f"env.tasks=[{','.join(POINT_MASS_TASKS)}]", *COMMON]
POINT_MASS_ONE = [f"env.tasks=[{POINT_MASS_TASKS[0]}]"]

# Two tasks without MuJoCo whose episodes end when the mass falls, so that they never meet.
FALLING = [
    *COMMON,
    "env=gymnasium",
    "env.tasks=[tests.support.point_mass:PointMass-v0,tests.support.point_mass:PointMass-v0]",
    "env.task_options=[{edge: 0.6},{edge: 0.3}]",
]
FALLING_TASKS = [f"tests.support.point_mass:PointMass-v0(edge={edge})" for edge in (0.6, 0.3)]


def checkpoint_steps(folder):
    """Where its checkpoints are, newest first."""
    return [steps_of(path) for path in RunFolder.open(folder).checkpoints()]


def rows(folder):
    with (folder / "evaluations.csv").open() as file:
        return list(csv.DictReader(file))


def checkpoint(folder):
    """The newest one's groups, and its replay: the filled part, as it lay in memory."""
    run = RunFolder.open(folder)
    [newest, *_] = run.checkpoints()
    record = Index.read(newest).ring
    ring = Rows(*record.shape)
    load_rows(run.store.segments, record, ring)
    replay = {"rows": ring.rows[: ring.added], "added": torch.tensor(ring.added)}
    return {**run.load_checkpoint().groups, "replay": replay}


def assert_same_checkpoint(first, second):
    one, two = checkpoint(first), checkpoint(second)
    for group in one:
        assert one[group].keys() == two[group].keys()
        for name, value in one[group].items():
            assert same_bits(value, two[group][name]), f"{group}/{name}"


def same_bits(first, second):
    """Whether two tensors agree bit by bit, also where they hold NaN."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    one, two = (each.reshape(-1).view(torch.uint8) for each in (first, second))
    return torch.equal(one, two)


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def composed(*overrides):
    """The configuration of a command line."""
    with initialize_config_dir(str(Path(config_dir())), version_base="1.3"):
        return from_hydra(compose("config", overrides=list(overrides)), overrides)
