"""Runs from the command line's point of view: what they leave, how they stop, go on, and refuse."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch

from mtrl_fairgrad import evaluate, method_names, train, verify
from mtrl_fairgrad.agents import SAC
from tests.support.paths import ROOT
from tests.support.processes import start_training, wait_for_checkpoint
from tests.support.tiny_runs import (
    POINT_MASS,
    POINT_MASS_ONE,
    POINT_MASS_TASKS,
    TINY,
    assert_same_checkpoint,
    checkpoint,
    checkpoint_steps,
    rows,
    scalars,
)

NEAR, FAR = POINT_MASS_TASKS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two seeds with the exact solver."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert (
        train.main([*POINT_MASS, "seeds=[0,1]", "method.solver=newton", f"run_dir={folder}"]) == 0
    )
    return folder


# ---- what a run leaves ----


def test_evaluations_are_complete_and_the_last_one_plays_every_goal(finished):
    found = rows(finished)
    assert list(found[0]) == [
        "env_steps",
        "seed",
        "task",
        "episodes",
        "success",
        "return",
        "return_until_success",
    ]
    counted = Counter(
        (row["env_steps"], row["seed"], row["task"], row["episodes"]) for row in found
    )
    expected = {
        (steps, seed, task, "50" if steps == "100" else "1")
        for steps in ("0", "40", "80", "100")
        for seed in ("0", "1")
        for task in POINT_MASS_TASKS
    }
    assert counted == Counter(expected)
    assert all(0 <= float(row["success"]) <= 1 for row in found)


def test_a_run_leaves_configuration_report_and_curves(finished):
    for name in ("config.yaml", "manifest.json", "report.csv", "report.png"):
        assert (finished / name).stat().st_size > 0
    found = scalars(finished)
    for tag in (
        f"success/{NEAR}",
        "success_mean/mean",
        "success_mean/standard_error",
        f"train_return/{FAR}",
        f"critic/loss/{NEAR}",
        f"actor/loss/{NEAR}",
        f"temperature/{NEAR}",
        f"critic/value/{NEAR}",
        "critic/gradient_norm",
        "critic/cosine/mean",
        f"actor/weights/{NEAR}",
        "actor/residual",
        "actor/min_progress",
        "speed/updates_per_second",
        "speed/env_steps_per_second",
        f"return/{FAR}",
        f"return_until_success/{FAR}",
        "seed_1/success_mean",
        f"seed_0/success/{NEAR}",
        "seed_1/critic/loss",
    ):
        assert tag in found, tag
    assert [step for step, _ in found[f"critic/loss/{NEAR}"]] == list(range(20, 101, 10))
    assert [step for step, _ in found["success_mean/mean"]] == [0, 40, 80, 100]
    assert max(value for _, value in found["actor/residual"]) < 1e-3, "newton solves its equation"


def test_the_last_evaluations_have_checkpoints(finished):
    assert checkpoint_steps(finished) == [100, 80]
    assert checkpoint(finished)["replay"]["rows"].shape[:3] == (90, 2, 2)


def test_ls_reports_cosines_too(tmp_path):
    assert train.main([*POINT_MASS, "steps=20", "method=ls", f"run_dir={tmp_path / 'r'}"]) == 0
    found = scalars(tmp_path / "r")
    assert "critic/cosine/mean" in found and "actor/cosine/share_negative" in found
    assert found[f"actor/weights/{NEAR}"][0][1] == 0.5


def test_a_seed_beside_another_collects_the_data_it_collects_alone(finished, tmp_path):
    """Same streams, goals and simulators; floating-point sums differ, so compare what precedes
    learning.
    """
    for name, seeds in (("alone", "seeds=[1]"), ("beside", "seeds=[0,1]")):
        assert (
            train.main(
                [
                    *POINT_MASS,
                    *POINT_MASS_ONE,
                    seeds,
                    "steps=15",
                    "eval.every=15",
                    f"run_dir={tmp_path / name}",
                ]
            )
            == 0
        )
    alone, beside = (checkpoint(tmp_path / name)["replay"]["rows"] for name in ("alone", "beside"))
    assert torch.equal(alone[:, 0], beside[:, 1])


def test_workers_change_nothing(finished, tmp_path):
    arguments = [a for a in POINT_MASS if "workers" not in a]
    more = [
        "env.workers=2",
        "eval.workers=1",
        "seeds=[0,1]",
        "method.solver=newton",
        f"run_dir={tmp_path / 'r'}",
    ]
    assert train.main([*arguments, *more]) == 0
    assert_same_checkpoint(finished, tmp_path / "r")
    assert rows(finished) == rows(tmp_path / "r")


# ---- stopping and going on ----


@pytest.mark.parametrize(
    "method",
    [["method=ls", *POINT_MASS_ONE], ["method.solver=newton", "seeds=[0,1]", "eval.workers=1"]],
)
def test_a_resumed_run_ends_bit_for_bit_where_the_uninterrupted_one_does(method, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train.main([*POINT_MASS, *method, f"run_dir={whole}"]) == 0
    assert train.main([*POINT_MASS, *method, f"run_dir={parts}", "steps=40"]) == 0
    assert train.main([f"resume={parts}", "steps=100"]) == 0
    assert_same_checkpoint(whole, parts)
    last = [[row for row in rows(folder) if row["env_steps"] == "100"] for folder in (whole, parts)]
    assert last[0] == last[1]


def test_resuming_a_finished_run_changes_nothing(finished):
    before = {path: path.read_bytes() for path in finished.rglob("*.safetensors")}
    assert train.main([f"resume={finished}"]) == 0
    assert {path: path.read_bytes() for path in finished.rglob("*.safetensors")} == before
    assert len(rows(finished)) == 16


def assert_gap_free(folder, steps):
    counted = Counter((int(row["env_steps"]), row["task"]) for row in rows(folder))
    expected = {(step, task) for step in [*range(0, steps, 40), steps] for task in POINT_MASS_TASKS}
    assert counted == Counter(expected)
    for step, _ in (logged := scalars(folder))[f"critic/loss/{NEAR}"]:
        assert step % 10 == 0
    assert [step for step, _ in logged[f"critic/loss/{NEAR}"]] == list(range(20, steps + 1, 10))


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(
            pytest.param(number, marks=pytest.mark.exhaustive)
            for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
        ),
    ],
)
def test_a_signal_leaves_a_checkpoint(number, tmp_path):
    process = start_training([*POINT_MASS, "steps=4000"], tmp_path / "r")
    wait_for_checkpoint(tmp_path / "r", process)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number, output
    assert "with a checkpoint" in output
    steps = checkpoint_steps(tmp_path / "r")[0]
    assert f"stopped at env_steps {steps}" in output
    assert f"\nresume with: python -m mtrl_fairgrad.train resume={tmp_path / 'r'}\n" in output
    goal = steps + 80 - steps % 40
    assert train.main([f"resume={tmp_path / 'r'}", f"steps={goal}"]) == 0
    assert_gap_free(tmp_path / "r", goal)
    assert train.main([*POINT_MASS, f"run_dir={tmp_path / 'whole'}", f"steps={goal}"]) == 0
    assert_same_checkpoint(tmp_path / "r", tmp_path / "whole")


@pytest.mark.exhaustive
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    process = start_training(
        [*POINT_MASS, "steps=4000"], tmp_path / "r", "env.workers=1", "eval.workers=1"
    )
    wait_for_checkpoint(tmp_path / "r", process, at_least=120)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    newest = max(int(p.name.split("-")[0]) for p in (tmp_path / "r" / "checkpoints").glob("0*"))
    goal = newest + 80
    assert train.main([f"resume={tmp_path / 'r'}", f"steps={goal}"]) == 0
    assert_gap_free(tmp_path / "r", goal)


@pytest.mark.exhaustive
def test_a_run_killed_before_its_second_checkpoint_leaves_no_double_entries(tmp_path):
    folder = tmp_path / "r"
    process = start_training([*POINT_MASS, "steps=4000"], folder, "eval.every=4000")
    wait_for_checkpoint(folder, process, at_least=0)
    time.sleep(3)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert train.main([f"resume={folder}", "steps=40"]) == 0
    assert [step for step, _ in scalars(folder)[f"critic/loss/{NEAR}"]] == [20, 30, 40]


def test_an_extended_run_remembers_how_far_it_goes(tmp_path):
    folder = tmp_path / "r"
    assert train.main([*POINT_MASS, *POINT_MASS_ONE, "steps=20", f"run_dir={folder}"]) == 0
    assert train.main([f"resume={folder}", "steps=40"]) == 0
    assert "steps: 40" in (folder / "config.yaml").read_text().splitlines()
    assert train.main([f"resume={folder}"]) == 0
    assert [row["env_steps"] for row in rows(folder)] == ["0", "20", "40"]


def test_a_run_below_the_home_folder_resumes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train.main([*POINT_MASS, *POINT_MASS_ONE, "steps=20", f"run_dir={tmp_path / 'r'}"]) == 0
    assert train.main([f"resume={tmp_path / 'r'}", "steps=40"]) == 0


def test_a_checkpoint_of_another_agent_is_refused(tmp_path, capsys):
    for name, width in (("small", 8), ("large", 16)):
        assert (
            train.main(
                [
                    *POINT_MASS,
                    *POINT_MASS_ONE,
                    "steps=20",
                    f"agent.width={width}",
                    f"run_dir={tmp_path / name}",
                ]
            )
            == 0
        )
    shutil.rmtree(tmp_path / "large" / "checkpoints")
    shutil.move(tmp_path / "small" / "checkpoints", tmp_path / "large" / "checkpoints")
    capsys.readouterr()
    assert train.main([f"resume={tmp_path / 'large'}", "steps=40"]) == 2
    assert "does not fit this run" in capsys.readouterr().err


# ---- faults and mistakes ----


def test_a_nan_in_the_only_seed_stops_the_run_naming_step_task_and_seed(
    tmp_path, monkeypatch, capsys
):
    update = SAC.update

    def poisoned(agent, batch, noise):
        if agent.updates == 30:
            batch.rewards[0, 0, 0] = float("nan")
        return update(agent, batch, noise)

    monkeypatch.setattr(SAC, "update", poisoned)
    assert train.main([*POINT_MASS, "seeds=[7]", f"run_dir={tmp_path / 'r'}"]) == 1
    error = capsys.readouterr().err
    assert "at env_steps=46 " in error and f"(seed 7, {NEAR}: critic" in error
    assert "a loss or gradient was not finite" in error and "first in update 30" in error
    assert error.endswith(f"resume with: python -m mtrl_fairgrad.train resume={tmp_path / 'r'}\n")
    assert (tmp_path / "r" / "incidents.csv").read_text().count(f",{NEAR},1,31,30,stop\n") == 1
    assert checkpoint_steps(tmp_path / "r") == [40, 0]


MISTAKES = [
    (
        ["method=farigrad"],
        f"method=farigrad is unknown; allowed: {', '.join(method_names())}; did you mean fairgrad?",
    ),
    (
        ["convention=libtml"],
        "allowed: libmtl, libmtl_nash_mtl, official, official_supervised, plain",
    ),
    (["loss_alpha=1"], "at 1 the transformation is the logarithm: use the method si"),
    (
        ["env=mt11"],
        "env=mt11 is unknown; allowed: gymnasium, mt1, mt10, mt10_paper, mt50, mt50_paper",
    ),
    (["preset=slow"], "preset=slow is unknown; allowed: cpu, fast, mt10_plus, none, quick"),
    (["env.tasks=[reach-v3,drawer-clsoe-v3]"], "drawer-close-v3"),
    (["env=mt1"], "task"),
    (["agent.wdith=3"], "agent.wdith is not an option; did you mean agent.width?"),
    (["alpha=-2"], "alpha=-2"),
    (["alpha=nan"], "alpha=nan"),
    (["method=ls", "alpha=2"], "method=ls has no alpha"),
    (
        ["agent.batch_size=100", "agent.buffer_size=50"],
        "agent.batch_size=100 exceeds agent.buffer_size=50",
    ),
    (["seeds=[3,3]"], "seeds=[3, 3]"),
    (["device=tpu"], "device=tpu is unknown"),
    (["device=cuda:99"], "device=cuda:99"),
    (["device=cpu:1"], "device=cpu:1 is unknown"),
    (["env.suite=mt50"], "env.suite=mt50 would be reported as mt10"),
    (["env.workers=5000"], "env.workers=5000"),
    (["env.worker_timeout=0"], "env.worker_timeout=0.0 is not allowed"),
    (["env.worker_restarts=-1"], "env.worker_restarts=-1 is not allowed"),
    (["agent.buffer_size=1000000000000"], "agent.buffer_size=1000000000000 needs too much memory"),
    (["agent.width=100000000"], "agent.width=100000000 and agent.depth=3 need more than"),
    (["steps=1000000000000000000000"], "steps=1000000000000000000000 is not allowed"),
    (["alpha=3", "method.alpha=2.0"], "disagree"),
    (["seeds=[1"], "cannot be parsed"),
    (["resume=/nowhere/at/all"], "holds no run"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), MISTAKES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_mistake_ends_at_once_with_one_sentence_and_nothing_written(
    arguments, said, tmp_path, capsys
):
    given = [a for a in TINY if a.partition("=")[0] not in {b.partition("=")[0] for b in arguments}]
    given = [
        a
        for a in given
        if not (a.startswith("env.tasks") and arguments[0] in ("env=mt1", "env=mt11"))
    ]
    assert train.main([*given, *arguments, f"run_dir={tmp_path / 'r'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("error: ")
    assert not (tmp_path / "r").exists()


def test_a_folder_with_a_run_is_not_overwritten(finished, capsys):
    before = (finished / "evaluations.csv").read_bytes()
    assert train.main([*POINT_MASS, f"run_dir={finished}"]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (finished / "evaluations.csv").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train.main([*POINT_MASS, f"run_dir={tmp_path / 'file' / 'r'}"]) == 2
    assert "cannot be created" in capsys.readouterr().err


def test_resuming_with_another_configuration_is_refused(finished, capsys):
    assert train.main([f"resume={finished}", "agent.width=32", "alpha=1"]) == 2
    error = capsys.readouterr().err
    assert (
        "agent.width (16 before, 32 now)" in error and "method.alpha (2.0 before, 1.0 now)" in error
    )


def test_a_damaged_checkpoint_gives_way_and_the_run_ends_as_it_would_have(
    finished, tmp_path, capsys
):
    folder = shutil.copytree(finished, tmp_path / "r")
    newest = folder / "checkpoints" / "000000000100" / "agent.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert train.main([f"resume={folder}"]) == 0
    said = "".join(capsys.readouterr())
    assert "agent.safetensors is damaged" in said and "going back 20 steps" in said
    assert_same_checkpoint(folder, finished)
    assert rows(folder) == rows(finished) and verify.main([str(folder)]) == 0


def test_damaged_checkpoints_are_refused(tmp_path, capsys):
    folder = tmp_path / "r"
    assert train.main([*POINT_MASS, *POINT_MASS_ONE, "steps=40", f"run_dir={folder}"]) == 0
    older, newest = sorted(folder.glob("checkpoints/*/agent.safetensors"))
    for path in (newest, older):
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
    capsys.readouterr()
    assert train.main([f"resume={folder}", "steps=80"]) == 2
    assert "agent.safetensors" in capsys.readouterr().err
    assert evaluate.main([str(folder), "--workers", "0"]) == 2


@pytest.mark.exhaustive
def test_foreign_packages_named_agents_and_envs_are_not_imported(tmp_path):
    for name in ("agents", "envs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('foreign package')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [
        sys.executable,
        "-m",
        "mtrl_fairgrad.train",
        *POINT_MASS,
        *POINT_MASS_ONE,
        "steps=20",
        "run_dir=r",
    ]
    process = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert checkpoint_steps(tmp_path / "r") == [20, 0]


def test_help_lists_groups_and_keys():
    command = [sys.executable, "-m", "mtrl_fairgrad.train", "--help"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0
    assert f"method: {', '.join(method_names())}\n" in found.stdout and "log_every" in found.stdout


# ---- evaluate ----


def test_evaluate_repeats_the_runs_last_evaluation(finished, capsys):
    assert evaluate.main([str(finished), "--workers", "1"]) == 0
    with (finished / "evaluation-100-50-goals.csv").open() as file:
        again = list(csv.DictReader(file))
    last = [row for row in rows(finished) if row["env_steps"] == "100"]
    assert [(r["seed"], r["task"], r["success"], r["return"]) for r in again] == [
        (r["seed"], r["task"], r["success"], r["return"]) for r in last
    ]
    assert "mean over 2 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--goals", "51"], "50 goals"),
        (["--step", "7"], "no checkpoint at env_steps=7"),
        (["--workers", "-1"], "0 or more"),
    ],
)
def test_evaluate_refuses_what_cannot_be(finished, arguments, said, capsys):
    assert evaluate.main([str(finished), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_deterministic_kernels_are_asked_for_and_train_the_same(tmp_path):
    short = [*POINT_MASS, *POINT_MASS_ONE, "steps=40", "eval.every=40"]
    assert train.main([*short, f"run_dir={tmp_path / 'any'}"]) == 0
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        assert train.main([*short, "deterministic=true", f"run_dir={tmp_path / 'same'}"]) == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_checkpoint(tmp_path / "any", tmp_path / "same")
