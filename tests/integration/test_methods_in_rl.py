"""Runs with different methods: notes, recorded names, exact resume."""

import json

import pytest

from mtrl_fairgrad import evaluate, train
from mtrl_fairgrad.runs.run_dir import RunFolder
from tests.support.fabricated_runs import groups_of
from tests.support.tiny_runs import (
    POINT_MASS,
    POINT_MASS_ONE,
    POINT_MASS_TASKS,
    assert_same_checkpoint,
    rows,
    scalars,
)

# ---- what is said and recorded ----


def test_the_fallback_of_the_actor_is_said_once_and_recorded(tmp_path, capsys):
    folder = tmp_path / "r"
    assert (
        train.main([*POINT_MASS, *POINT_MASS_ONE, "method=si", "steps=20", f"run_dir={folder}"])
        == 0
    )
    assert capsys.readouterr().out.count("needs positive losses, so the actor") == 1
    assert json.loads((folder / "manifest.json").read_text())["methods"] == {
        "critic": "si",
        "actor": "ls",
    }
    assert evaluate.main([str(folder), "--goals", "1", "--workers", "0"]) == 0


def test_an_ordinary_method_is_recorded_without_a_word(tmp_path, capsys):
    folder = tmp_path / "r"
    assert (
        train.main([*POINT_MASS, *POINT_MASS_ONE, "method=ls", "steps=20", f"run_dir={folder}"])
        == 0
    )
    assert "note:" not in capsys.readouterr().out
    assert json.loads((folder / "manifest.json").read_text())["methods"] == {
        "critic": "ls",
        "actor": "ls",
    }


def test_runs_with_and_without_loss_alpha_are_told_apart(tmp_path, capsys):
    shared = [*POINT_MASS, *POINT_MASS_ONE, "steps=20", "method.solver=newton"]
    kinds = {
        "plain": [],
        "transformed": ["loss_alpha=0.5"],
        "scaled": ["convention=official_supervised"],
    }
    for name, more in kinds.items():
        assert train.main([*shared, *more, f"run_dir={tmp_path / name}"]) == 0
    assert capsys.readouterr().out.count("trained by fairgrad with loss_alpha=0.5") == 1
    recorded = RunFolder.open(tmp_path / "transformed").manifest["methods"]
    assert recorded == {"critic": "fairgrad with loss_alpha=0.5", "actor": "fairgrad"}
    groups = groups_of(*(tmp_path / name for name in kinds))
    assert [group.label for group in groups] == [
        "fairgrad (α=2, newton)",
        "fairgrad (α=2, newton, loss_alpha=0.5)",
        "fairgrad (α=2, newton, convention=official_supervised)",
    ]


def test_a_run_of_single_task_agents_is_evaluated_like_any_other(tmp_path):
    folder = tmp_path / "r"
    assert (
        train.main([*POINT_MASS, "seeds=[0,1]", "method=stl", "steps=20", f"run_dir={folder}"]) == 0
    )
    assert evaluate.main([str(folder), "--goals", "1", "--workers", "0"]) == 0
    logged = scalars(folder)
    assert f"critic/gradient_norm/{POINT_MASS_TASKS[0]}" in logged, "each agent has its own"
    assert {value for _, value in logged["critic/cosine/mean"]} == {0.0}


# ---- going on ----


@pytest.mark.parametrize(
    "name",
    [
        "fairgrad",
        *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("famo", "pcgrad", "moco")),
    ],
)
def test_a_method_resumes_bit_for_bit_from_the_command_line(name, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = [*POINT_MASS, *POINT_MASS_ONE, f"method={name}", "loss_alpha=0.5"]
    assert train.main([*command, "steps=60", f"run_dir={whole}"]) == 0
    assert train.main([*command, "steps=40", f"run_dir={parts}"]) == 0
    assert train.main([f"resume={parts}", "steps=60"]) == 0
    assert_same_checkpoint(whole, parts)
    assert rows(whole)[-1] == rows(parts)[-1]


def test_a_run_cannot_go_on_with_another_loss_alpha_or_convention(tmp_path, capsys):
    folder = tmp_path / "r"
    assert train.main([*POINT_MASS, *POINT_MASS_ONE, "steps=20", f"run_dir={folder}"]) == 0
    assert (
        train.main(
            [f"resume={folder}", "steps=40", "loss_alpha=0.5", "convention=official_supervised"]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert (
        "loss_alpha (None before, 0.5 now)" in error
        and "convention.max_norm (None before, 1.0 now)" in error
    )
