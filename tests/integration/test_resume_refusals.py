"""Resuming never deletes results: what would is refused, and the folder stays as it was."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from mtrl_fairgrad import evaluate, train
from mtrl_fairgrad.config.schema import ConfigError
from mtrl_fairgrad.envs.workers.pool import WorkerLost
from mtrl_fairgrad.runs.checkpoint.index import Index
from mtrl_fairgrad.runs.run_dir import Evaluation, RunFolder
from mtrl_fairgrad.training import factory
from mtrl_fairgrad.training.run_setup import check_folder
from mtrl_fairgrad.utils.atomic_io import content_of
from tests.support.errors import check_refusal
from tests.support.tiny_runs import POINT_MASS, POINT_MASS_ONE, POINT_MASS_TASKS, rows

COMMAND = [*POINT_MASS, *POINT_MASS_ONE, "steps=80"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 80 steps with evaluations at 0, 40 and 80."""
    folder = tmp_path_factory.mktemp("runs") / "a run, finished"
    assert train.main([*COMMAND, f"run_dir='{folder}'"]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_run_with_a_method_of_a_script_is_resumed_by_that_script(run, capsys):
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["overrides"].append("method=of_a_script")
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert train.main([f"resume={run}", "steps=120"]) == 2
    said = capsys.readouterr().err
    assert "method=of_a_script" in said and "resume by that script" in said


def contents(folder):
    """Of all files but the lock, which names the process that held it last."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != "run.lock"
    }


def deleted(run):
    shutil.rmtree(run / "checkpoints")


def emptied(run):
    deleted(run)
    (run / "checkpoints").mkdir()


def segments_alone(run):
    """Copied in part: the replay's rows without the checkpoints that use them."""
    for path in run.glob("checkpoints/0*"):
        shutil.rmtree(path)


def without_index(run):
    for path in run.glob("checkpoints/0*/index.json"):
        path.unlink()


def shortened(run):
    for path in run.glob("checkpoints/0*/agent.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])


def without_rows(run):
    for path in run.glob("checkpoints/segments/*"):
        path.unlink()


def changed(run):
    """Damage that only the checksums show."""
    for path in run.glob("checkpoints/0*/agent.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")


def interrupted(run):
    """A run of 80 steps that was killed after the evaluation at 40."""
    emptied(run)
    lines = (run / "evaluations.csv").read_text().splitlines(keepends=True)
    (run / "evaluations.csv").write_text("".join(lines[:-1]))


def curves_alone(run):
    """As if killed before the first evaluation after training began."""
    emptied(run)
    lines = (run / "evaluations.csv").read_text().splitlines(keepends=True)
    (run / "evaluations.csv").write_text("".join(lines[:2]))


LOSSES = [
    *(deleted, emptied, segments_alone, without_index, shortened, without_rows, changed),
    *(interrupted, curves_alone),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_run_without_intact_checkpoints_is_not_started_over(loss, run, capsys):
    loss(run)
    before = contents(run)
    assert train.main([f"resume={run}", "steps=120"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and shlex.join(["mtrl_fairgrad.report", str(run)]) in said
    assert contents(run) == before


def edit_state(checkpoint, changes):
    """Change a checkpoint's state, with a new checksum."""
    index, state = Index.read(checkpoint), json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(state | changes))
    index.files["state.json"] = content_of(checkpoint / "state.json")
    (checkpoint / "index.json").write_bytes(index.encode())


LINKS = ["config.yaml", "evaluations.csv", "metrics.csv", "resumes.jsonl"]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_is_refused_before_anything_changes(name, run, capsys):
    elsewhere = run.parent / f"elsewhere {name}"
    (run / name).touch()
    (run / name).rename(elsewhere)
    (run / name).symlink_to(elsewhere)
    before = contents(run.parent)
    assert train.main([f"resume={run}", "steps=120"]) == 2
    said = capsys.readouterr().err
    assert str(run / name) in said and said.count("\n") == 1
    assert contents(run.parent) == before


@pytest.mark.parametrize(
    "damage",
    [
        {"replaced": []},
        {"replaced": {"training": "two"}},
        {"non_finite": {}},
        {"evaluation": 7},
        {"running": [0]},
        {"environments": {"made": {}, "results": []}},
        {"environments": 5},
    ],
    ids=str,
)
def test_a_refused_resume_changes_nothing(damage, run, capsys):
    """Also where all files are as they were written, by a program that wrote something else."""
    for path in run.glob("checkpoints/0*"):
        edit_state(path, damage)
    before = contents(run)
    assert train.main([f"resume={run}", "steps=120"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    lock = Path("run.lock")  # holds the token of the process that was refused
    assert contents(run) | {lock: b""} == before | {lock: b""}


def test_a_resume_that_loses_more_workers_than_are_replaced_changes_nothing(
    run, monkeypatch, capsys
):
    for path in run.glob("checkpoints/0*"):
        edit_state(path, {"replaced": {"training": 10**6}})
    make = factory.make_envs

    def lose(config, tasks, evaluation, on_lost):
        if evaluation:
            on_lost(WorkerLost("a worker died"))
        return make(config, tasks, evaluation)

    monkeypatch.setattr(factory, "make_envs", lose)
    before = contents(run)
    assert train.main([f"resume={run}", "steps=120"]) == 1
    assert "a worker died, before the first step" in capsys.readouterr().err
    assert contents(run) == before


@pytest.mark.parametrize(
    ("loss", "steps"),
    [(deleted, "steps=80"), (emptied, "steps=120"), (interrupted, "steps=80")],
)
def test_neither_is_one_that_resume_auto_finds(loss, steps, run, capsys):
    loss(run)
    before = contents(run)
    code = train.main([*COMMAND, "resume=auto", f"run_dir={run}", steps])
    finished = steps == "steps=80" and loss is not interrupted
    found = capsys.readouterr()
    assert code == (0 if finished else 2)
    assert "nothing is left to do" in found.out if finished else "start over" in found.err
    assert contents(run) == before


def test_what_can_still_be_done_includes_the_exported_policies(run, capsys):
    deleted(run)
    for command in (train.main, evaluate.main):
        assert command([f"resume={run}"] if command is train.main else [str(run)]) == 2
        said = capsys.readouterr().err
        assert "no checkpoint" in said and "no policy of it was exported" in said
        assert "before its first" not in said
    (run / "policies").mkdir()
    (run / "policies" / "policy-80-seed0.json").write_text("{}")
    for command in (train.main, evaluate.main):
        assert command([f"resume={run}"] if command is train.main else [str(run)]) == 2
        wanted = f"python -m mtrl_fairgrad.evaluate {run}/policies/policy-80-seed0.json"
        assert wanted in capsys.readouterr().err


@pytest.mark.parametrize("untrained", [True, False])
def test_a_job_that_died_before_its_first_checkpoint_starts_over(untrained, finished, tmp_path):
    """Nothing is lost: at most the policy before training had been evaluated."""
    source, path = RunFolder.open(finished), tmp_path / "run"
    config = {**source.config, "run_dir": str(path)}
    folder = RunFolder.create(path, config, source.manifest)
    if untrained:
        folder.append_evaluation([Evaluation(0, 0, POINT_MASS_TASKS[0], 1, 0.0, -1.0)])
    assert train.main([*COMMAND, "resume=auto", f"run_dir={path}"]) == 0
    assert rows(path) == rows(finished)


@pytest.mark.parametrize("steps", [79, 40, 1])
def test_a_resumed_run_is_not_made_shorter_than_it_is(steps, run, capsys):
    before = contents(run)
    assert train.main([f"resume={run}", f"steps={steps}"]) == 2
    said = capsys.readouterr().err
    assert f"steps={steps} is less" in said and said.count("\n") == 1
    assert contents(run) == before


def length_refused(run, steps):
    folder = RunFolder.open(run)
    config = train_config(folder, steps)
    try:
        check_folder(config)
    except ConfigError as error:
        check_refusal(error, "steps", steps)
        return True
    return False


def train_config(folder, steps):
    from tests.support.tiny_runs import composed

    config = composed(*COMMAND, f"steps={steps}")
    config.env.tasks = list(folder.config["env"]["tasks"])
    config.resume = str(folder.path)
    return config


def test_an_unfinished_run_can_end_earlier_but_not_where_it_was_evaluated_in_passing(run):
    """A last evaluation plays all goals; one in passing, of one episode, cannot become it."""
    RunFolder.open(run).extend(400)  # trained and evaluated up to 80 of 400
    refused = {steps: length_refused(run, steps) for steps in (40, 79, 80, 81, 399, 400, 500)}
    assert refused == {40: True, 79: True, 80: True, 81: False, 399: False, 400: False, 500: False}


def test_resuming_into_another_folder_is_refused(run, tmp_path, capsys):
    before = contents(tmp_path)
    assert train.main([f"resume={run}", f"run_dir={tmp_path / 'copy'}"]) == 2
    assert "run_dir=" in capsys.readouterr().err
    assert contents(tmp_path) == before
    assert train.main([f"resume={run}", f"run_dir={run}", "steps=79"]) == 2
    assert "steps=79" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.csv", "events.out.tfevents.9", "report.csv"])
def test_a_folder_with_another_runs_files_is_not_used(name, tmp_path, capsys):
    (tmp_path / name).write_text("precious")
    assert train.main([*COMMAND, f"run_dir={tmp_path}"]) == 2
    assert name in capsys.readouterr().err
    assert contents(tmp_path).keys() == {(tmp_path / name).relative_to(tmp_path)}


@pytest.mark.parametrize(
    ("name", "content"), [("manifest.json", '{"name": "web page"}'), ("evaluations.csv", "mine")]
)
def test_resume_auto_does_not_take_foreign_files_for_a_start_that_was_interrupted(
    name, content, tmp_path, capsys
):
    (tmp_path / name).write_text(content)
    assert train.main([*COMMAND, "resume=auto", f"run_dir={tmp_path}"]) == 2
    assert name in capsys.readouterr().err
    assert (tmp_path / name).read_text() == content
