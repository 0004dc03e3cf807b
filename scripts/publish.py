"""Publish finished runs: evaluations, metrics and policies, small enough for a repository.

    python scripts/publish.py SET... [--out results/mt10] [--page docs/results.md]
                                     [--one-policy | --no-policies]

A SET is a folder of run folders, such as runs/mt10 with runs/mt10/ls. The script writes

    OUT/SET/RUN/            the run folder without checkpoints and with thinned metrics; `report`
                            accepts it
    OUT/SET/RUN/policies/   each seed's policy and the model card, as from `evaluate --export`
    OUT/SET.csv             every evaluation, with the run's protocol, versions, commit, machine and
                            wall-clock time
    OUT/SET.png             learning curves
    OUT/SET.gradients.png   what the task gradients are like, if the page shows this file

and figure and tables into the page, between `<!-- SET -->` and `<!-- end of SET -->`. Success at
equal time is added where `measure_steps.py` has written OUT/SET.costs.csv. A run is
published only if `verify` finds no problem, and a policy only if it repeats the success rates of
the last evaluation exactly when its file is played on each task's 50 goals. Given OUT/SET itself,
the script makes everything but the run folders again.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mtrl_fairgrad import evaluate  # noqa: E402
from mtrl_fairgrad.analysis.report.figure_files import as_png, conflicts_as_png  # noqa: E402
from mtrl_fairgrad.analysis.report.protocol_blocks import Block, make_blocks  # noqa: E402
from mtrl_fairgrad.analysis.report.tables import (  # noqa: E402
    NOTHING,
    Table,
    by_task,
    certainty,
    gradients,
    overview,
    plus_minus,
    seed_ranks,
    update_shares,
)
from mtrl_fairgrad.analysis.run_groups import RunGroup, pool  # noqa: E402
from mtrl_fairgrad.analysis.statistics import over_seeds  # noqa: E402
from mtrl_fairgrad.analysis.verification import missing_entries, verify  # noqa: E402
from mtrl_fairgrad.config.schema import flatten  # noqa: E402
from mtrl_fairgrad.evaluation.model_card import write_card  # noqa: E402
from mtrl_fairgrad.runs import metrics_log, resume_log  # noqa: E402
from mtrl_fairgrad.runs.base_run_dir import write_description  # noqa: E402
from mtrl_fairgrad.runs.run_dir import MAX_BYTES, RunFolder  # noqa: E402
from mtrl_fairgrad.utils.arguments import command_line, fail, override  # noqa: E402
from mtrl_fairgrad.utils.atomic_io import write_atomic  # noqa: E402
from mtrl_fairgrad.utils.entry_point import entry_point  # noqa: E402
from mtrl_fairgrad.utils.safe_files import entries, is_present, read_bytes  # noqa: E402
from mtrl_fairgrad.utils.text_tables import csv_report, markdown, markdown_table  # noqa: E402

BUDGET = 2_000_000
"""Vector steps of MT10 runs in the literature."""
COPIED = ("evaluations.csv", "incidents.csv", resume_log.NAME)
CURVE_POINTS = 60
LICENCE = "mit"
"""Of the published policies, as of the repository."""
REFERENCE = "ls"
"""Name of the run of the plain mean, with which the others of its set are compared."""
ALL, ONE, NONE = "all", "one", "none"
"""Which policies of a run are published."""
COLUMNS = (
    *("run", "method", "seed", "env_steps", "task", "episodes", "success"),
    *("return", "return_until_success", "protocol"),
    *("started", "commit", "dirty", "python", "torch", "numpy", "metaworld", "mujoco"),
    *("platform", "processor", "cpus", "device", "wall_seconds"),
)


class NotPublished(ValueError):
    """A run cannot be published; the message is one sentence."""


@entry_point
def main(arguments: Sequence[str] | None = None) -> int:
    """Publish the sets of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "mt10")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--one-policy", action="store_true", help="only that of each run's first seed, for size"
    )
    which.add_argument(
        "--no-policies", action="store_true", help="leave policies as they are, or out"
    )
    options = parser.parse_args(arguments)
    try:
        for source in options.sets:
            policies = NONE if options.no_policies else ONE if options.one_policy else ALL
            publish(source, options.out, options.page, policies)
    except (ValueError, OSError) as error:
        return fail(error)
    return 0


def publish(source: Path, out: Path, page: Path, policies: str = ALL) -> None:
    """Publish one set.

    Args:
        source: a folder of run folders; its name is the set's.
        out: where the set goes.
        page: the Markdown page with the markers of the set.
        policies: `ALL`, `ONE` of each run or `NONE`: those that are exported and played, which
            takes minutes for each seed.

    Raises:
        NotPublished: a run cannot be trusted, or a policy does not repeat its scores.
        RunFolderError: a run is missing or damaged.
        OSError: a file cannot be read or written.
    """
    name = source.resolve().name
    runs = runs_of(source)
    for run in runs:
        entries(run, root=source)  # a link is refused
    if not runs:
        raise NotPublished(f"{source} holds no run folders: give the folder above them.")
    if source.resolve() != (out / name).resolve():
        for run in runs:
            _check(run)
        for run in runs:
            _copy(run, out / name / run.name)
            if policies != NONE:
                _export(run, out / name / run.name / "policies", policies == ONE)
    published = [out / name / run.name for run in runs]
    for run in published:
        write_card(run / "policies", LICENCE)
    groups = pool([RunFolder.open(path) for path in published])
    blocks = make_blocks(groups)
    if len(blocks) > 1:
        raise NotPublished(
            f"{source} holds runs of {len(blocks)} protocols: give each protocol its own folder."
        )
    write_atomic(out / f"{name}.csv", csv_report([COLUMNS, *_rows(groups)]).encode())
    write_atomic(out / f"{name}.png", as_png(groups))
    gradients = out / f"{name}.gradients.png"
    if gradients.name in page.read_text():
        if (content := conflicts_as_png(blocks[0])) is None:
            raise NotPublished(f"{page} shows {gradients.name}, but {source} logged no gradients.")
        write_atomic(gradients, content)
    figure = os.path.relpath((out / f"{name}.png").resolve(), page.resolve().parent)
    costs = _costs(out / f"{name}.costs.csv")
    _insert(page, name, section(blocks[0], Path(figure), costs))


def runs_of(source: Path) -> list[Path]:
    """Return the run folders of a set."""
    return [run for run in entries(source) if is_present(run / "config.yaml")]


def _check(run: Path) -> None:
    folder = RunFolder.open(run)
    problems = [
        f"{finding.check}: {problem}" for finding in verify(folder) for problem in finding.problems
    ]
    if not folder.has_checkpoint():
        problems.append("checkpoints: there is none to compare the files with")
    if problems:
        raise NotPublished(
            f"{run} cannot be trusted ({problems[0]}): see {command_line('verify', run)}."
        )


def _copy(run: Path, there: Path) -> None:
    """Copy the small files of a run folder, with thinned metrics and `runs/SET/RUN` as its path."""
    there.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if is_present(run / name):
            write_atomic(there / name, read_bytes(run / name, MAX_BYTES))
    entries = metrics_log.thin([*metrics_log.read_entries(run)], CURVE_POINTS)
    write_atomic(there / metrics_log.NAME, metrics_log.encode(entries))
    folder = RunFolder.open(run)
    path = f"runs/{there.parent.name}/{there.name}"  # the run's own may be of one machine alone
    words = [
        override("run_dir", path) if word.startswith("run_dir=") else word
        for word in folder.manifest.get("overrides", [])
    ]
    write_description(
        there,
        folder.kind,
        {**folder.config, "run_dir": path},
        {**folder.manifest, "overrides": words},
    )


def _export(run: Path, there: Path, first_alone: bool) -> None:
    """Export policies; each must repeat the run's last evaluation from its file.

    Args:
        run: the run folder.
        there: the folder of the policies.
        first_alone: only that of the first seed.
    """
    folder = RunFolder.open(run)
    rows = folder.evaluations()
    last = max(row.env_steps for row in rows)
    briefly = [] if flatten(folder.config)["eval.full_episodes"] else ["--stop-at-success"]
    stated = {(row.seed, row.task): row.success for row in rows if row.env_steps == last}
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "policies"
        words = ["--step", str(last), *briefly, "--out", scratch, "--export", str(made)]
        if first_alone:
            words += ["--seed", str(folder.config["seeds"][0])]
        if evaluate.main([str(run), *words]):
            raise NotPublished(f"the policies of {run} could not be exported.")
        for policy in sorted(made.glob("*.json")):
            played = Path(scratch) / policy.stem
            if evaluate.main([str(policy), *briefly, "--out", str(played)]):
                raise NotPublished(f"{policy.name} of {run} could not be played.")
            [table] = played.glob("evaluation-*.csv")
            played_rates = {
                (int(row["seed"]), row["task"]): float(row["success"]) for row in _read(table)
            }
            differing = [
                task
                for (seed, task), rate in played_rates.items()
                if stated.get((seed, task)) != rate
            ]
            if differing:
                raise NotPublished(
                    f"{policy.name} of {run} does not repeat the last evaluation of {differing}."
                )
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(made, there)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ---- files made from the published folders ----


def _rows(groups: Sequence[RunGroup]) -> Iterator[tuple[object, ...]]:
    for group in groups:
        for folder, logged in zip(group.folders, group.metrics, strict=True):
            about = folder.manifest
            if missing := missing_entries(folder):
                raise NotPublished(f"{folder.path} cannot be published: {missing[0]}.")
            versions, git = about["versions"], about["git"] or {}
            origin = (about["started"], git.get("commit"), git.get("dirty"))
            software = tuple(
                versions.get(name) for name in ("python", "torch", "numpy", "metaworld", "mujoco")
            )
            machine = tuple(about.get(key) for key in ("platform", "processor", "cpus", "device"))
            for row in folder.evaluations():
                measured = (
                    row.env_steps,
                    row.task,
                    row.episodes,
                    row.success,
                    *row.returns,
                    group.protocol,
                )
                provenance = (*origin, *software, *machine, f"{logged.wall_seconds:.0f}")
                yield (folder.path.name, group.label, row.seed, *measured, *provenance)


def _costs(path: Path) -> dict[str, float]:
    """Return each run's cost of a training step, relative to that of `ls`; empty without a file."""
    if not is_present(path):
        return {}
    return {row["run"]: float(row["cost"]) for row in _read(path)}


def set_table(block: Block, costs: Mapping[str, float]) -> Table:
    """Return a row for each method: training, success, interquartile mean and duration.

    With tests against the plain mean if the set has several seeds of it, in a run called `ls`, and
    with success at equal time if costs are known.

    Args:
        block: the set.
        costs: of a training step by name of the run, relative to the plain mean.
    """
    course, certain = overview(block), certainty(block)
    head = [
        "method",
        "seeds",
        f"steps of the usual {BUDGET:,}",
        "untrained",
        "final",
        "interquartile mean",
    ]
    rows: list[list[str]] = []
    for group, cells, more in zip(block.groups, course.rows, certain.rows, strict=True):
        name, seeds, steps, untrained, last, *over_course = cells
        _, _, middle, took, _ = more
        spent = f"{steps} ({100 * group.env_steps[-1] / BUDGET:.2g}%)"
        rows.append([name, seeds, spent, untrained, last, middle, *over_course, took])
    head = [*head, *course.head[-2:], "wall-clock"]
    notes = [*course.notes, *certain.notes]
    for extra in (_at_equal_time(block, costs), _tests_against_mean(block)):
        if extra is not None:
            head += extra.head
            rows = [[*row, *cells] for row, cells in zip(rows, extra.rows, strict=True)]
            notes += extra.notes
    return Table(course.title, head, rows, notes)


def _mean_group(block: Block) -> int | None:
    """Return the index of the group of the run `ls`; None without several groups and seeds."""
    found = [
        n
        for n, group in enumerate(block.groups)
        if REFERENCE in [folder.path.name for folder in group.folders] and len(group.seeds) > 1
    ]
    return found[0] if found and len(block.groups) > 1 else None


def _at_equal_time(block: Block, costs: Mapping[str, float]) -> Table | None:
    """Return the columns of cost and of success in the time of the plain mean."""
    reference = _mean_group(block)
    if reference is None or not costs:
        return None
    names = [folder.path.name for group in block.groups for folder in group.folders]
    if missing := sorted({*names} - costs.keys()):
        raise NotPublished(
            f"the costs of steps lack the run {missing[0]}: measure the set again with "
            "scripts/measure_steps.py."
        )
    last = block.groups[reference].env_steps[-1]
    rows: list[list[str]] = []
    for group in block.groups:
        cost = float(np.mean([costs[folder.path.name] for folder in group.folders]))
        curves = group.success.mean(axis=2)  # [T, S]
        seeds = [np.interp(last / cost, group.env_steps, curve) for curve in curves.T]
        rows.append([f"{cost:.2f}", plus_minus(*map(float, over_seeds(seeds, axis=0)))])
    note = (
        "Time of a step: processor time on one thread over that of the plain mean (ls), measured "
        "in interleaved rounds. At equal time: success when the plain mean ends, interpolated "
        "between evaluations; a slower method's learning rate has not fallen to its end by then."
    )
    return Table("", ["time of a step", "at equal time"], rows, [note])


def _tests_against_mean(block: Block) -> Table | None:
    """Return the columns of the seeds' rank tests against the plain mean."""
    reference = _mean_group(block)
    if reference is None:
        return None
    tests = [row[reference] for row in block.seed_ranks]
    rows = [[NOTHING] * 2 if test is None else [f"{each.p:.2g}" for each in test] for test in tests]
    note = "p: of the rank tests of seeds against the plain mean (ls), in the tables below."
    return Table("", ["p of final", "p of course"], rows, [note])


def section(block: Block, figure: Path, costs: Mapping[str, float]) -> str:
    """Return the lines of the page about a set; arguments as in `set_table`."""
    lines = [f"![Success over training, mean and by task]({figure.as_posix()})"]
    tables = [
        set_table(block, costs),
        *seed_ranks(block),
        by_task(block),
        *update_shares(block)[:1],  # of the critic
        *gradients(block),
    ]
    for table in tables:
        lines += ["", *markdown_table(table.all_rows)]
    notes = dict.fromkeys(markdown(note) for table in tables for note in table.notes)
    return "\n".join([*lines, "", *notes])


def _insert(page: Path, name: str, text: str) -> None:
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise NotPublished(
            f"{page} has no place for the table: put {begin} and {end} where it should stand."
        )
    write_atomic(page, f"{before}{begin}\n\n{text}\n\n{end}{after}".encode())


if __name__ == "__main__":
    sys.exit(main())
