"""Evaluations during training have the same results, in the same order, as those that training
waits for, whatever happens to the run meanwhile.
"""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from multiprocessing import active_children

import pytest

from mtrl_fairgrad import train
from mtrl_fairgrad.envs.evaluation import EvaluationRollout
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training import loop
from mtrl_fairgrad.training.evaluator import Evaluator
from tests.support.sample_run import Fault
from tests.support.tiny_runs import FALLING, assert_same_checkpoint, rows, scalars

RUN = [
    *FALLING,
    *("env.task_options=[{edge: 50},{edge: 60}]", "env.horizon=12"),
    *("method=ls", "eval.every=20", "steps=60", "log_every=60"),
]
DUE = ["0", "20", "40", "60"]


class Killed(BaseException):
    """Ends a run like a signal that cannot be caught: it does nothing more."""


def kill(*_):
    raise Killed


@pytest.fixture(scope="module", autouse=True)
def _no_reports():
    """Skip the reports, which take longer than the runs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "finish", lambda folder: None)
        yield


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """The run whose training waits for each evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "waiting"
    assert train.main([*RUN, "eval.background=false", f"run_dir={folder}"]) == 0
    assert list(dict.fromkeys(row["env_steps"] for row in rows(folder))) == DUE
    assert len({row["return"] for row in rows(folder)}) == 8
    return folder


class Background:
    """Lets evaluations run during training without processes; their simulators answer on demand."""

    def __init__(self):
        self.answers, self.happens = lambda env_steps: True, {}
        """Whether the simulators answer at a step, and functions to call before a step."""
        self.env_steps, self.taken = None, 0
        """The training step in progress, None between two, and the number of evaluation steps taken
        during training steps.
        """


@pytest.fixture
def background():
    with background_evaluations() as control:
        yield control


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """A run that was stopped at 32 while the policy of 20 was evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "left"
    with background_evaluations() as control:
        control.answers, control.happens[31] = never, stop
        assert train.main([*RUN, f"run_dir={folder}"]) == 128 + signal.SIGTERM
    assert state_of(folder, 32)["evaluation"] == 20 and len(rows(folder)) == 2
    return folder


@contextmanager
def background_evaluations():
    control, step, step_wait = Background(), loop.step, TaskVectorEnv.step_wait

    def watched_step(trainer):
        control.happens.get(trainer.env_steps, lambda _: None)(trainer)
        control.env_steps = trainer.env_steps
        step(trainer)
        control.env_steps = None

    def watched_wait(envs, half=0):
        control.taken += envs.role == "eval" and control.env_steps is not None
        return step_wait(envs, half)

    def ready(envs, _=0, half=0):
        return envs.role == "train" or control.answers(control.env_steps)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "step", watched_step)
        patched.setattr(TaskVectorEnv, "step_wait", watched_wait)
        patched.setattr(TaskVectorEnv, "ready", ready)
        patched.setattr(Evaluator, "background", True)
        yield control


def never(env_steps):
    return False


def assert_same_run(folder, other):
    assert (folder / "evaluations.csv").read_bytes() == (other / "evaluations.csv").read_bytes()
    assert_same_checkpoint(folder, other)
    shown = scalars(folder)["success_mean/mean"]
    assert [str(env_steps) for env_steps, _ in shown] == DUE and shown == scalars(other)[
        "success_mean/mean"
    ]


# ---- the same numbers ----


@pytest.mark.parametrize(
    ("answers", "taken"),
    [
        pytest.param(lambda env_steps: True, 3 * 12, id="at once"),
        pytest.param(
            lambda env_steps: env_steps % 7 == 3, 3 * 3 * 2, id="late, so that the next one waits"
        ),
        pytest.param(never, 0, id="never, which keeps no training step waiting"),
    ],
)
def test_numbers_order_and_training_are_those_of_waiting(
    answers, taken, waiting, background, tmp_path, capsys
):
    background.answers = answers
    assert train.main([*RUN, f"run_dir={tmp_path / 'r'}"]) == 0
    assert background.taken == taken
    assert_same_run(tmp_path / "r", waiting)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("env_steps ")]
    assert [line.partition(":")[0].split()[1] for line in lines] == DUE
    assert all("s, training waited " in line for line in lines)


@pytest.fixture
def killed_at_3(monkeypatch):
    """Kills the worker of the evaluation within a step of training."""
    step = loop.step

    def killing(trainer):
        if trainer.env_steps == 3:
            (worker,) = (child for child in active_children() if child.name == "envs-0")
            os.kill(worker.pid, signal.SIGKILL)
        step(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "step", killing)
        yield patched


def test_an_evaluation_whose_worker_died_has_the_same_results(
    waiting, killed_at_3, tmp_path, capsys
):
    assert train.main([*RUN, "eval.workers=1", f"run_dir={tmp_path / 'r'}"]) == 0
    assert "(SIGKILL), it hosted task tests.support.point_mass:PointMass-v0(edge=50), seed 0; " in (
        out := capsys.readouterr().out
    )
    assert "the evaluation starts again with a new worker, replacement 1 of at most 10" in out
    assert_same_run(tmp_path / "r", waiting)
    assert state_of(tmp_path / "r", 60)["replaced"] == {"training": 0, "evaluation": 1}


def test_a_worker_that_dies_beyond_the_limit_ends_the_run_and_a_resumed_one_has_the_same_rows(
    waiting, killed_at_3, tmp_path, capsys
):
    folder = tmp_path / "r"
    assert train.main([*RUN, "eval.workers=1", "env.worker_restarts=0", f"run_dir={folder}"]) == 1
    assert "error: environment worker 0 (pid " in capsys.readouterr().err
    assert rows(folder) == []
    killed_at_3.undo()
    assert train.main([f"resume={folder}", "env.workers=1", "eval.workers=1"]) == 0
    assert_same_run(folder, waiting)


# ---- killed ----


def test_a_killed_run_has_the_same_rows_when_resumed(waiting, background, tmp_path, monkeypatch):
    """Killed before, while or after the rows were written of the evaluation that ran when the
    checkpoint was made.
    """
    killed = tmp_path / "killed"
    with monkeypatch.context() as patched:
        background.happens[21] = lambda _: patched.setattr(RunFolder, "append_evaluation", kill)
        with pytest.raises(Killed):
            train.main([*RUN, f"run_dir={killed}"])
    del background.happens[21]
    assert state_of(killed, 20)["evaluation"] == 20 and len(rows(killed)) == 2
    assert list(dict(scalars(killed)["success_mean/mean"])) == [0, 20], (
        "what is written was shown before"
    )
    lines = (waiting / "evaluations.csv").read_text().splitlines(keepends=True)
    for written in (0, 1, 2):
        folder = tmp_path / f"{written} written"
        shutil.copytree(killed, folder)
        (folder / "evaluations.csv").write_text("".join(lines[: 1 + 2 + written]))
        assert train.main([f"resume={folder}"]) == 0
        assert_same_run(folder, waiting)


def state_of(folder, env_steps):
    return json.loads((folder / "checkpoints" / f"{env_steps:012d}" / "state.json").read_text())


def test_a_checkpoint_of_before_is_continued(waiting, tmp_path, monkeypatch):
    """Its version did not save unfinished evaluations."""
    folder, resume, read = tmp_path / "r", RunFolder.resume_checkpoint, []

    def without(*arguments, **keywords):
        saved = resume(*arguments, **keywords)
        read.append(saved.state.pop("evaluation"))
        return saved

    shutil.copytree(waiting, folder)
    monkeypatch.setattr(RunFolder, "resume_checkpoint", without)
    assert train.main([f"resume={folder}", "steps=70"]) == 0 and read == [None]
    assert rows(folder)[:-2] == rows(waiting) and {
        row["env_steps"] for row in rows(folder)[-2:]
    } == {"70"}


def test_a_damaged_checkpoint_gives_way_to_one_whose_evaluation_ran(waiting, background, tmp_path):
    folder, background.answers = tmp_path / "r", never
    assert train.main([*RUN, f"run_dir={folder}"]) == 0
    assert state_of(folder, 40)["evaluation"] == 40
    (folder / "checkpoints" / "000000000060" / "agent.safetensors").write_bytes(b"")
    assert train.main([f"resume={folder}"]) == 0
    assert_same_run(folder, waiting)


@pytest.mark.parametrize(
    "forge",
    [
        lambda saved: saved.groups.pop("evaluation"),
        lambda saved: saved.groups["evaluation"].popitem(),
        lambda saved: saved.groups["evaluation"].update(
            {name: v[..., :1] for name, v in saved.groups["evaluation"].items()}
        ),
        lambda saved: saved.state.update(evaluation="20"),
        lambda saved: saved.state.update(evaluation=40),
    ],
)
def test_an_evaluation_of_something_else_is_refused(forge, left, tmp_path, monkeypatch, capsys):
    resume = RunFolder.resume_checkpoint

    def forged(*arguments, **keywords):
        saved = resume(*arguments, **keywords)
        forge(saved)
        return saved

    monkeypatch.setattr(RunFolder, "resume_checkpoint", forged)
    folder = shutil.copytree(left, tmp_path / "r")
    assert train.main([f"resume={folder}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert ("does not fit this run" in line or "is invalid" in line) and str(folder) in line


def test_a_full_disk_says_what_is_safe(left, waiting, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(left, tmp_path / "r")
    with monkeypatch.context() as patched:
        # Before come resumes.jsonl and incidents.csv, each with its folder, metrics.csv, and the
        # new event file, empty and then with its entries.
        patched.setattr(os, "fsync", Fault(os.fsync, 7))
        assert train.main([f"resume={folder}"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert (
        "evaluations.csv could not be written (No space left" in line
        and "env_steps=32 is safe: make room" in line
    )
    assert train.main([f"resume={folder}"]) == 0
    assert_same_run(folder, waiting)


# ---- stopped ----


def stop(trainer):
    trainer.stop.request(signal.SIGTERM)


def test_a_stop_leaves_the_running_evaluation_to_the_resumed_run(
    waiting, background, tmp_path, capsys
):
    folder = tmp_path / "r"
    background.answers, background.happens[31] = never, stop
    assert train.main([*RUN, f"run_dir={folder}"]) == 128 + signal.SIGTERM
    assert "the evaluation of env_steps 20 is unfinished" in capsys.readouterr().out
    assert state_of(folder, 32)["evaluation"] == 20 and len(rows(folder)) == 2
    assert train.main([f"resume={folder}", "eval.background=false"]) == 0
    assert_same_run(folder, waiting)


def test_a_stop_ends_the_waiting_for_the_last_one(
    waiting, background, tmp_path, monkeypatch, capsys
):
    command, advance = [*RUN, "resume=auto", f"run_dir={tmp_path / 'r'}"], EvaluationRollout.advance
    asked = []

    def stop_in_the_last(trainer):
        def asking(playing, wait=False):
            if trainer.env_steps == 60 and trainer.evaluator.running.env_steps == 60:
                asked.append(trainer.evaluator.running.env_steps)
                stop(trainer)
            return advance(playing, wait)

        monkeypatch.setattr(EvaluationRollout, "advance", asking)

    background.happens[59] = stop_in_the_last
    assert train.main(command) == 128 + signal.SIGTERM
    assert asked == [60] and len(rows(tmp_path / "r")) == 6
    monkeypatch.setattr(EvaluationRollout, "advance", advance)
    assert train.main(command) == 0
    assert "nothing is left to do" not in capsys.readouterr().out
    assert_same_run(tmp_path / "r", waiting)
