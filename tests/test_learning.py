"""The agent learns on the real simulators."""

import csv

import pytest

from mtrl_fairgrad import train


@pytest.mark.slow
def test_two_tasks_are_trained_until_the_drawer_is_closed(tmp_path):
    folder = tmp_path / "run"
    arguments = [
        "preset=quick",
        "env.tasks=[reach-v3,drawer-close-v3]",
        "method.solver=newton",
        "env.horizon=500",
        "agent.discount=0.99",
        "agent.reward_scale=1",
        "steps=2000",
        "eval.every=500",
        "progress=false",
        "threads=1",
        f"run_dir={folder}",
    ]
    assert train.main(arguments) == 0
    with (folder / "evaluations.csv").open() as file:
        drawer = [row for row in csv.DictReader(file) if row["task"] == "drawer-close-v3"]
    success = [float(row["success"]) for row in drawer]
    assert success[0] <= 0.2, "untrained"
    assert max(success[1:]) >= 0.8, success
