"""The paper's Table 4 beside our numbers, and in words what sets the two protocols apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from mtrl_fairgrad.analysis.paper_tables import PaperTable, paper_table
from mtrl_fairgrad.analysis.report.protocol_blocks import Block
from mtrl_fairgrad.analysis.report.tables import NOTHING, Table, plus_minus
from mtrl_fairgrad.analysis.run_groups import RunGroup, flatten

PRINTED = {
    "stl": "STL",
    "mtl_sac": "MTL SAC",
    "mtl_sac_te": "MTL SAC + TE",
    "mh_sac": "MH SAC",
    "pcgrad": "PCGrad",
    "cagrad": "CAGrad",
    "moco": "MoCo",
    "nash_mtl_original": "Nash-MTL (original)",
    "nash_mtl": "Nash-MTL (reproduced)",
    "famo": "FAMO",
    "fairgrad": "FairGrad",
}
"""What the rows of Table 4 are called in the paper."""
AGENTS = {"mtsac": "mtl_sac", "mtsac_te": "mtl_sac_te", "mhsac": "mh_sac"}
"""The rows of agents that are trained by the plain mean of the task losses (`method=ls`), by
`agent.name`.
"""
SEEDS = 10
"""Of every row of Table 4."""


def row_of(group: RunGroup) -> str | None:
    """The row of Table 4 that a group reproduces, protocol aside; None if there is none."""
    if not is_mt10(group):
        return None
    method, agent = group.config.get("method.name"), group.config.get("agent.name", "mtsac")
    if "stl" in (method, agent):
        return "stl"
    if method == "ls":
        return AGENTS.get(agent)
    return method if agent == "mtsac" and method in _table().methods else None


def is_mt10(group: RunGroup) -> bool:
    """Whether a group was trained on the ten tasks of MT10, and not by preset=quick, whose numbers
    are no results.
    """
    if any(folder.config.get("preset") == "quick" for folder in group.folders):
        return False
    suite = group.config.get("env.suite") or group.config.get("env.name") or ""
    return str(suite).startswith("mt10") and len(group.tasks) == 10


def number(group: RunGroup) -> tuple[float, float]:
    """Table 4's success rate and standard error for a group, NaN where it has no such row."""
    row = row_of(group)
    if row is None:
        return float("nan"), float("nan")
    table = _table()
    place = table.row(row)
    return float(table.values[place, 0]), float(table.stderr[place])


def table4_comparison(block: Block, ours_only: bool = False) -> Table | None:
    """Table 4 beside the groups of a block; None if they are not of MT10.

    Args:
        block: whose best and final numbers stand beside the paper's.
        ours_only: leave out the paper's rows that no group corresponds to; None if that leaves
            nothing.
    """
    found = {id(group): row_of(group) for group in block.groups}
    if not is_mt10(block.groups[0]) or (ours_only and not any(found.values())):
        return None
    table, rows = _table(), list[list[str]]()
    for place, method in enumerate(table.methods):
        printed = f"{table.values[place, 0]:.2f} ± {table.stderr[place]:.2f}"
        ours = [group for group in block.groups if found[id(group)] == method]
        rows += [[PRINTED[method], printed, *_ours(group)] for group in ours]
        if not ours and not ours_only:
            rows.append([PRINTED[method], printed, *[NOTHING] * 4])
    if not ours_only:
        rows += [
            [NOTHING, NOTHING, *_ours(group)] for group in block.groups if found[id(group)] is None
        ]
    head = ["Table 4", "paper, best", "our best", "our final", "seeds", "ours"]
    return Table("The paper's Table 4 beside ours", head, rows, [_warning(block)])


def _ours(group: RunGroup) -> list[str]:
    best, last = (
        plus_minus(group.best.mean, group.best.stderr),
        plus_minus(group.final.mean, group.final.stderr),
    )
    return [best, last, str(len(group.seeds)), group.label]


def _warning(block: Block) -> str:
    return (
        f"The paper's numbers are the highest means over {SEEDS} seeds in the course of 2,000,000 "
        "steps, under its own protocol: horizon 150, one frozen goal for each task, version 1 "
        "rewards, one episode of each task in each "
        f"evaluation. Ours are measured under {block.name}: what lies between them is not the "
        "methods alone."
    )


def differences(block: Block) -> Table | None:
    """What sets the paper's protocol apart from a block's, a row for each aspect; None if that is
    not MT10.
    """
    if not is_mt10(block.groups[0]):
        return None
    rows = [[aspect, paper, _distinct(block, here)] for aspect, paper, here in ASPECTS]
    return Table("How the protocols differ", ["aspect", "the paper", "here"], rows, words=True)


def _distinct(block: Block, here: Callable[[RunGroup], str]) -> str:
    return " or ".join(dict.fromkeys(here(group) for group in block.groups)) or NOTHING


def _options(*words: str) -> Callable[[RunGroup], str]:
    """All that a group's protocol says of something, found by words in the names of its options."""

    def say(group: RunGroup) -> str:
        env = {
            key.removeprefix("env."): value
            for key, value in group.config.items()
            if key.startswith("env.")
        }
        options = {**env, **flatten(group.folders[0].manifest.get("protocol") or {})}
        found = [
            (key.replace("_", " ").replace(".", " "), value)
            for key, value in options.items()
            if value is not None and any(word in key for word in words)
        ]
        said = [
            (name if value else f"no {name}") if isinstance(value, bool) else f"{name} {value}"
            for name, value in found
        ]
        return ", ".join(said) or "not recorded"

    return say


def _training(group: RunGroup) -> str:
    size, steps = group.config.get("agent.batch_size"), group.config.get("steps")
    planned = "" if steps in (None, group.env_steps[-1]) else f" of {steps:,} planned"
    batch = "" if size is None else f", batch {size} of each task"
    return f"{group.env_steps[-1]:,} vector steps{planned}{batch}"


def _evaluation(group: RunGroup) -> str:
    every, episodes = group.config.get("eval.every"), group.config.get("eval.episodes")
    course = (
        ""
        if every is None
        else f"every {every:,} steps, {episodes} deterministic episodes of each task; "
    )
    return f"{course}{group.episodes} in the last one"


def _seeds(group: RunGroup) -> str:
    return str(len(group.seeds))


ASPECTS: tuple[tuple[str, str, Callable[[RunGroup], str]], ...] = (
    ("simulators", "Meta-World of February 2021, through mtrl", _options("simulator")),
    ("rewards", "version 1, divided by each task's running standard deviation", _options("reward")),
    ("horizon", "150 steps", _options("horizon")),
    ("goals", "one for each task, drawn once, in training and evaluation alike", _options("goal")),
    ("observation", "12 numbers: hand, objects, goal", _options("observation")),
    ("task id", "none for the methods that combine gradients", _options("one_hot", "task_id")),
    ("success", "any step of an episode", _options("success")),
    ("training", "2,000,000 vector steps, batch 1280 over all tasks", _training),
    ("evaluation", "every 10,000 steps, one deterministic episode of each task", _evaluation),
    ("seeds", str(SEEDS), _seeds),
    (
        "number",
        "the highest mean over seeds in the course",
        lambda group: "that one, and the final one",
    ),
)


@cache
def _table() -> PaperTable:
    return paper_table("table4")
