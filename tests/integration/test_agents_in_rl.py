"""Agents train on the simulators, are evaluated, say what they are, and resume exactly with all
their options.
"""

import json

import pytest

from mtrl_fairgrad import evaluate, train
from mtrl_fairgrad.runs.run_dir import RunFolder
from tests.support.fabricated_runs import groups_of
from tests.support.tiny_runs import ONE, TINY, assert_same_checkpoint, checkpoint, rows, scalars

OPTIONS = [
    "agent.critic_width=12",
    "agent.critic_layer_norm=true",
    "agent.initialization=xavier",
    "agent.log_std=tanh",
    "agent.temperature=shared",
    "agent.reward_normalization=running_std",
    "agent.reset_every=30",
    "agent.warmup_updates=10",
]


SCALED = [
    "env.copies=4",
    "seeds=[0,1]",
    "agent.n_step=3",
    "agent.return_normalization=per_task",
    "agent.observation_normalization=running",
    "agent.observation_normalization_steps=60",
    "agent.critic=categorical",
]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A finished run of single-task agents."""
    folder = tmp_path_factory.mktemp("runs") / "stl"
    assert train.main([*TINY, *ONE, "agent=stl", "steps=20", f"run_dir={folder}"]) == 0
    return folder


@pytest.mark.exhaustive
def test_a_run_with_every_option_resumes_bit_for_bit_and_is_evaluated(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = [*TINY, *ONE, *OPTIONS, "agent=mtsac_te", "env.one_hot=false"]
    assert train.main([*command, "steps=40", f"run_dir={whole}"]) == 0
    assert train.main([*command, "steps=20", f"run_dir={parts}"]) == 0
    assert train.main([f"resume={parts}", "steps=40"]) == 0
    assert_same_checkpoint(whole, parts)
    assert rows(whole)[-1] == rows(parts)[-1]
    assert checkpoint(whole)["agent"]["updates"] == 34, "ten at once, then one in each of 24 steps"
    assert "reward_deviation/reach-v3" in scalars(whole)
    assert evaluate.main([str(whole), "--workers", "0"]) == 0
    again = (whole / "evaluation-40-50-goals.csv").read_text().splitlines()[-1]
    assert again.startswith((whole / "evaluations.csv").read_text().splitlines()[-1] + ",mt10 · ")


@pytest.mark.exhaustive
def test_scaled_returns_and_observations_resume_and_are_exported_with_their_policy(
    tmp_path, capsys
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train.main([*TINY, *SCALED, "steps=80", f"run_dir={whole}"]) == 0
    assert train.main([*TINY, *SCALED, "steps=40", f"run_dir={parts}"]) == 0
    assert train.main([f"resume={parts}", "steps=80"]) == 0
    assert_same_checkpoint(whole, parts)
    assert rows(whole)[-1] == rows(parts)[-1]
    assert "return_scale/reach-v3" in scalars(whole)
    goals = ["--workers", "0", "--goals", "2"]
    assert evaluate.main([str(whole), *goals, "--export", "--seed", "1"]) == 0
    (policy,) = (whole / "policies").glob("*.json")
    assert evaluate.main([str(policy), *goals]) == 0
    assert "repeated exactly" in capsys.readouterr().out


def test_single_task_agents_are_called_stl(single):
    run = RunFolder.open(single)
    assert (run.config["agent"]["name"], run.config["method"]["name"]) == ("stl", "stl")
    assert json.loads((single / "manifest.json").read_text())["methods"] == {
        "critic": "stl",
        "actor": "stl",
    }
    assert groups_of(single)[0].label == "stl"
    assert train.main([f"resume={single}"]) == 0
    assert evaluate.main([str(single), "--goals", "1", "--workers", "0"]) == 0


def test_another_agent_is_another_run(single, capsys):
    assert train.main([f"resume={single}", "agent=mhsac", "method=ls", "steps=40"]) == 2
    assert "agent.name (stl before, mhsac now)" in capsys.readouterr().err
    assert train.main([*TINY, "agent=mhsack", "run_dir=nowhere"]) == 2
    assert (
        "agent=mhsack is unknown; allowed: mhsac, mtsac, mtsac_te, stl; did you mean"
        in capsys.readouterr().err
    )
