"""Runs whose simulator workers die or hang. Random moments: scripts/kill_workers.py."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import active_children
from pathlib import Path

import pytest

from mtrl_fairgrad import evaluate, train, verify
from mtrl_fairgrad.agents import SeedPolicies
from mtrl_fairgrad.analysis.report.formats import as_text
from mtrl_fairgrad.analysis.report.protocol_blocks import make_blocks
from mtrl_fairgrad.analysis.run_groups import pool
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.trainer import Trainer
from tests.support.paths import ROOT
from tests.support.processes import alive, wait_until_gone
from tests.support.tiny_runs import (
    FALLING,
    assert_same_checkpoint,
    checkpoint,
    checkpoint_steps,
    rows,
    scalars,
)

pytestmark = pytest.mark.usefixtures("no_reports")

RUN = [
    *(word for word in FALLING if not word.startswith("env.workers")),
    *("env.task_options=[{edge: 50},{edge: 60}]", "env.horizon=12", "env.workers=1"),
    *("method=ls", "eval.every=20", "steps=60", "log_every=20"),
]


def worker():
    (pid,) = (child.pid for child in active_children() if child.name == "envs-0")
    return pid


def kill(trainer):
    os.kill(worker(), signal.SIGKILL)


def stop(trainer):
    os.kill(worker(), signal.SIGSTOP)


def state_of(folder):
    return json.loads((RunFolder.open(folder).checkpoints()[0] / "state.json").read_text())


@pytest.mark.exhaustive
def test_training_goes_on_with_no_row_lost_or_doubled_and_resumes_bit_for_bit(
    happens, tmp_path, capsys
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    happens.update({16: stop, 47: kill})
    assert train.main([*RUN, "env.worker_timeout=2", f"run_dir={whole}"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert [line.split()[3] for line in notes] == ["16", "47"]
    assert "did not answer within 2 s and was killed, it hosted" in notes[0]
    assert "(SIGKILL), it hosted task tests.support." in notes[1]
    assert "PointMass-v0(edge=50), seed 0; task tests" in notes[1]
    assert notes[1].endswith(
        ": training starts new episodes of all tasks with a new worker, replacement 2 of at most 10"
    )
    assert state_of(whole)["replaced"] == {"training": 2, "evaluation": 0}
    saved = checkpoint(whole)
    assert int(saved["replay"]["added"]) == 60
    assert int(saved["agent"]["updates"]) == 60 - 15, "a step that is repeated learns once"
    assert len({tuple(row.flatten().tolist()) for row in saved["replay"]["rows"]}) == 60
    assert dict(scalars(whole)["workers/replaced"]) == {17: 1.0, 48: 2.0}
    assert not any(finding.problems for finding in verify.verify(RunFolder.open(whole)))

    happens.update({16: stop, 47: kill})
    assert train.main([*RUN, "env.worker_timeout=2", "steps=20", f"run_dir={parts}"]) == 0
    assert train.main([f"resume={parts}", "steps=60"]) == 0
    assert_same_checkpoint(whole, parts)
    assert rows(whole)[-2:] == rows(parts)[-2:]
    one, other = state_of(whole), state_of(parts)
    other["non_finite"]["episodes"] -= 49  # step 20 was its last one, too, with all the goals
    assert one == other
    text = " ".join(as_text(make_blocks(pool([RunFolder.open(parts)]))).split())
    assert (
        "ls: 2 simulator workers died or hung and were replaced, which restarted their episodes."
        in text
    )


def test_beyond_the_limit_the_run_stops_and_goes_on_with_a_higher_one(happens, tmp_path, capsys):
    folder = tmp_path / "r"
    happens.update({5: kill, 25: kill})
    assert train.main([*RUN, "env.worker_restarts=1", f"run_dir={folder}"]) == 1
    output = capsys.readouterr()
    assert "env.worker_restarts=1 " in output.out
    fault, resume = output.err.splitlines()
    assert fault.startswith("error: environment worker 0 (pid ") and fault.endswith("checkpoint.")
    assert resume == f"resume with: python -m mtrl_fairgrad.train resume={folder}"
    assert not [child for child in active_children() if child.name.startswith("envs-")]
    happens[26] = kill
    assert train.main([f"resume={folder}"]) == 1, "the checkpoint knows how many there were"
    happens[26] = kill
    assert train.main([f"resume={folder}", "env.worker_restarts=2"]) == 0
    assert state_of(folder)["replaced"]["training"] == 2
    assert dict(scalars(folder)["workers/replaced"])[27] == 2.0


MORTAL = [*RUN, "env.tasks=[tests.support.point_mass:Mortal-v0]", "env.task_options=null"]


def die(number, tmp_path, monkeypatch):
    """Let workers die at their start, this number of times."""
    (tmp_path / "deaths").write_text("death\n" * number)
    monkeypatch.setenv("DEATHS", str(tmp_path / "deaths"))


def test_a_worker_killed_at_the_start_is_replaced_and_counted(tmp_path, monkeypatch, capsys):
    whole, other = tmp_path / "whole", tmp_path / "other"
    assert train.main([*MORTAL, f"run_dir={whole}", "steps=20"]) == 0
    die(2, tmp_path, monkeypatch)
    assert train.main([*MORTAL, f"run_dir={other}", "steps=20"]) == 0
    assert not (tmp_path / "deaths").read_text()
    assert_same_checkpoint(whole, other)
    assert state_of(other)["replaced"] == {"training": 2, "evaluation": 0}
    assert capsys.readouterr().out.count("it starts again with a new worker") == 2
    die(1, tmp_path, monkeypatch)
    assert evaluate.main([str(other), "--goals", "1", "--workers", "1"]) == 0
    assert not (tmp_path / "deaths").read_text()


def test_a_worker_killed_at_every_start_ends_the_run_without_advice_to_resume(
    tmp_path, monkeypatch, capsys
):
    die(3, tmp_path, monkeypatch)
    words = [*MORTAL, "env.worker_restarts=1", f"run_dir={tmp_path / 'r'}"]
    assert train.main(words) == 1
    error = capsys.readouterr().err
    assert "(SIGKILL)" in error and "give the command again" in error
    assert "resume" not in error and not (tmp_path / "r").exists()


def test_a_worker_lost_while_a_checkpoint_is_made_is_replaced(tmp_path, monkeypatch):
    saved = Trainer.checkpoint

    def killing(trainer):
        if trainer.env_steps == 20:
            kill(trainer)
        saved(trainer)

    monkeypatch.setattr(Trainer, "checkpoint", killing)
    assert train.main([*RUN, f"run_dir={tmp_path / 'r'}"]) == 0
    assert checkpoint_steps(tmp_path / "r") == [60, 40]
    assert state_of(tmp_path / "r")["replaced"]["training"] == 1


def test_a_run_stopped_after_a_replacement_resumes_bit_for_bit(happens, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    happens[27] = kill
    assert train.main([*RUN, f"run_dir={whole}"]) == 0
    assert checkpoint_steps(whole) == [60, 40]
    assert list(Counter(int(row["env_steps"]) for row in rows(whole))) == [0, 20, 40, 60]
    happens.update({27: kill, 30: lambda trainer: trainer.stop.request(signal.SIGTERM)})
    assert train.main([*RUN, f"run_dir={parts}"]) == 128 + signal.SIGTERM
    assert checkpoint_steps(parts) == [31, 20]
    assert train.main([f"resume={parts}"]) == 0
    assert_same_checkpoint(whole, parts)
    assert rows(whole) == rows(parts)


def test_an_evaluation_by_hand_reports_the_lost_worker(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "r"
    assert train.main([*RUN, "steps=20", f"run_dir={folder}"]) == 0
    act = SeedPolicies.__call__

    def killing(policies, observations):
        kill(None)
        return act(policies, observations)

    monkeypatch.setattr(SeedPolicies, "__call__", killing)
    assert evaluate.main([str(folder), "--workers", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: environment worker 0 (pid ") and error.endswith(
        ", and evaluate again.\n"
    )


@pytest.mark.exhaustive
def test_asked_twice_a_run_leaves_at_once_though_a_worker_hangs(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mtrl_fairgrad.train",
        *RUN,
        "steps=100000",
        "eval.workers=1",
        "eval.episodes=50",
    ]
    run = subprocess.Popen(
        [*command, "env.worker_timeout=null", f"run_dir={tmp_path / 'r'}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "r" / "checkpoints").glob("0*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    pids = [
        int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    output = run.communicate(timeout=30)[0]  # a run that waits for its workers never ends
    assert run.returncode == 130 and "stopped at once" in output
    assert wait_until_gone(pids) and not alive(pids)
