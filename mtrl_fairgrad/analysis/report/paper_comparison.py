"""Comparison with the paper's Table 4, and differences between the two protocols."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from mtrl_fairgrad.analysis.paper_tables import PaperTable, paper_table
from mtrl_fairgrad.analysis.report.protocol_blocks import Block
from mtrl_fairgrad.analysis.report.tables import NOTHING, Table, plus_minus
from mtrl_fairgrad.analysis.run_groups import RunGroup
from mtrl_fairgrad.config.schema import flatten

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
"""Names of the rows of Table 4 in the paper."""
AGENTS = {"mtsac": "mtl_sac", "mtsac_te": "mtl_sac_te", "mhsac": "mh_sac"}
"""Rows of agents trained by `method=ls`, by `agent.name`."""
SEEDS = 10
"""Number of seeds of each row of Table 4."""


def row_of(group: RunGroup) -> str | None:
    """Return the row of Table 4 with a group's method and agent; None if there is none."""
    if not is_mt10(group):
        return None
    method, agent = group.config.get("method.name"), group.config.get("agent.name", "mtsac")
    if "stl" in (method, agent):
        return "stl"
    if method == "ls":
        return AGENTS.get(agent)
    return method if agent == "mtsac" and method in _table().methods else None


def is_mt10(group: RunGroup) -> bool:
    """Whether a group was trained on MT10; preset=quick does not count, it is a demonstration."""
    if any(folder.config.get("preset") == "quick" for folder in group.folders):
        return False
    suite = group.config.get("env.suite") or group.config.get("env.name") or ""
    return str(suite).startswith("mt10") and len(group.tasks) == 10


def table4_number(group: RunGroup) -> tuple[float, float]:
    """Return Table 4's success rate and standard error for a group; NaN if it has no row."""
    row = row_of(group)
    if row is None:
        return float("nan"), float("nan")
    table = _table()
    index = table.row(row)
    return float(table.values[index, 0]), float(table.stderr[index])


def table4_comparison(block: Block, ours_only: bool = False) -> Table | None:
    """Tabulate Table 4 with the best and final numbers of a block; None if it is not MT10.

    Args:
        block: the groups to compare.
        ours_only: leave out rows of the paper without a group; None if no row is left.
    """
    paper_rows = {id(group): row_of(group) for group in block.groups}
    if not is_mt10(block.groups[0]) or (ours_only and not any(paper_rows.values())):
        return None
    table, rows = _table(), list[list[str]]()
    for index, method in enumerate(table.methods):
        printed = f"{table.values[index, 0]:.2f} ± {table.stderr[index]:.2f}"
        ours = [group for group in block.groups if paper_rows[id(group)] == method]
        rows += [[PRINTED[method], printed, *_ours(group)] for group in ours]
        if not ours and not ours_only:
            rows.append([PRINTED[method], printed, *[NOTHING] * 4])
    if not ours_only:
        others = [group for group in block.groups if paper_rows[id(group)] is None]
        rows += [[NOTHING, NOTHING, *_ours(group)] for group in others]
    head = ["Table 4", "paper, best", "our best", "our final", "seeds", "ours"]
    return Table("Comparison with the paper's Table 4", head, rows, [_warning(block)])


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
        "rewards, one episode of each task in each evaluation. "
        f"Ours are measured under {block.title}, "
        "so the differences are not due to the methods alone."
    )


def differences(block: Block) -> Table | None:
    """Tabulate the paper's protocol against a block's; None if it is not MT10."""
    if not is_mt10(block.groups[0]):
        return None
    rows = [[aspect, paper, _distinct(block, here)] for aspect, paper, here in ASPECTS]
    return Table(
        "Differences between the protocols", ["aspect", "the paper", "here"], rows, words=True
    )


def _distinct(block: Block, here: Callable[[RunGroup], str]) -> str:
    return " or ".join(dict.fromkeys(here(group) for group in block.groups)) or NOTHING


def _options(*words: str) -> Callable[[RunGroup], str]:
    """Make a function that lists a group's options whose name contains one of the words."""

    def describe(group: RunGroup) -> str:
        env = {
            key.removeprefix("env."): value
            for key, value in group.config.items()
            if key.startswith("env.")
        }
        options = {**env, **flatten(group.folders[0].manifest.get("protocol") or {})}
        matching = [
            (key.replace("_", " ").replace(".", " "), value)
            for key, value in options.items()
            if value is not None and any(word in key for word in words)
        ]
        texts = [
            (name if value else f"no {name}") if isinstance(value, bool) else f"{name} {value}"
            for name, value in matching
        ]
        return ", ".join(texts) or "not recorded"

    return describe


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
