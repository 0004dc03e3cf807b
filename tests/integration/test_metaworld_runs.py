"""Runs on Meta-World, whose checkpoints may lie inside episodes."""

import signal

import pytest

from mtrl_fairgrad import evaluate, train
from tests.support.processes import start_training, wait_for_checkpoint
from tests.support.tiny_runs import (
    ONE,
    TINY,
    assert_same_checkpoint,
    checkpoint_steps,
    rows,
)


@pytest.mark.exhaustive
def test_a_run_resumes_bit_for_bit_with_metaworlds_own_simulators(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train.main([*TINY, "method=ls", f"run_dir={whole}"]) == 0
    assert train.main([*TINY, "method=ls", f"run_dir={parts}", "steps=40"]) == 0
    assert train.main([f"resume={parts}", "steps=100", "env.fast=false"]) == 0
    assert_same_checkpoint(whole, parts)
    last = [[row for row in rows(folder) if row["env_steps"] == "100"] for folder in (whole, parts)]
    assert last[0] == last[1]


@pytest.mark.exhaustive
def test_a_signal_leaves_a_checkpoint_inside_an_episode(tmp_path):
    process = start_training([*TINY, "steps=4000"], tmp_path / "r")
    wait_for_checkpoint(tmp_path / "r", process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM and "with a checkpoint" in output, output
    steps = checkpoint_steps(tmp_path / "r")[0]
    assert f"stopped at env_steps {steps}" in output
    goal = steps + 60 - steps % 40 if steps % 40 else steps + 40
    assert train.main([f"resume={tmp_path / 'r'}", f"steps={goal}"]) == 0
    assert train.main([*TINY, f"run_dir={tmp_path / 'whole'}", f"steps={goal}"]) == 0
    assert_same_checkpoint(tmp_path / "r", tmp_path / "whole")


@pytest.mark.exhaustive
def test_a_run_that_ends_inside_an_episode_goes_on_from_there(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train.main([*TINY, *ONE, "steps=80", f"run_dir={whole}"]) == 0
    assert train.main([*TINY, *ONE, "steps=53", f"run_dir={parts}"]) == 0
    assert checkpoint_steps(parts) == [53, 40]
    assert evaluate.main([str(parts), "--goals", "1", "--workers", "0"]) == 0
    assert (parts / "evaluation-53-1-goals.csv").exists()
    assert train.main([f"resume={parts}"]) == 0, "nothing is left to do"
    assert train.main([f"resume={parts}", "steps=80"]) == 0
    assert_same_checkpoint(whole, parts)
    assert [row["env_steps"] for row in rows(parts)] == ["0", "40", "53", "80"]


def test_one_task_by_its_name(tmp_path):
    arguments = [a for a in TINY if not a.startswith("env.tasks")]
    more = ["env=mt1", "env.task=reach-v3", "steps=20", f"run_dir={tmp_path / 'r'}"]
    assert train.main([*arguments, *more]) == 0
    assert train.main([f"resume={tmp_path / 'r'}", "steps=40"]) == 0
    assert evaluate.main([str(tmp_path / "r"), "--goals", "1", "--workers", "0"]) == 0
