"""What the tests of reports share."""

import time

from torch.utils.tensorboard import SummaryWriter

from mtrl_fairgrad.analysis.report.protocol_blocks import make_blocks
from mtrl_fairgrad.analysis.run_groups import pool
from mtrl_fairgrad.runs.metric_entries import Entry
from mtrl_fairgrad.runs.metrics_log import encode
from mtrl_fairgrad.runs.run_dir import RunFolder

TASKS = ["reach-v3", "push-v3"]
FAIRGRAD = {"name": "fairgrad", "alpha": 2.0, "solver": "sgd"}
# {env_steps: [[success per task] per seed]}; means over tasks: seed 0: 0, .8, .5; seed 1: .2, .6,
# .7.
COURSE = {
    0: [[0.0, 0.0], [0.4, 0.0]],
    500: [[1.0, 0.6], [0.8, 0.4]],
    1000: [[0.2, 0.8], [0.6, 0.8]],
}
MT10 = (
    *("reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3"),
    *("button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "window-close-v3"),
)
PROTOCOL, METHOD = "mt10 · 2 tasks · horizon 500 · one hot", "fairgrad (α=2, sgd)"


def groups_of(*paths):
    return pool([RunFolder.open(path) for path in paths])


def blocks_of_runs(*paths):
    return make_blocks(groups_of(*paths))


def log(folder, entries, every=10.0):
    """Write a metrics log as training does.

    Args:
        folder: a run's.
        entries: {name: {env_steps: value}}.
        every: seconds between two steps that are logged.
    """
    steps = sorted({step for values in entries.values() for step in values})
    lines = [
        Entry(step, name, values[step])
        for step in steps
        for name, values in entries.items()
        if step in values
    ]
    lines += [Entry(step, "wall_seconds", n * every) for n, step in enumerate(steps)]
    (folder / "metrics.csv").write_bytes(encode(lines))


def log_events(folder, entries, every=10.0, purge=None):
    """Write an event file as training of version 0.1 did.

    Args:
        folder: a run's.
        entries: {tag: {env_steps: value}}.
        every: seconds between two steps that are logged, beginning now.
        purge: where a resumed run begins.
    """
    writer, start = SummaryWriter(str(folder), purge_step=purge), time.time()
    for n, step in enumerate(sorted({step for found in entries.values() for step in found})):
        for tag, found in entries.items():
            if step in found:
                writer.add_scalar(tag, found[step], step, walltime=start + n * every)
    writer.close()
