"""The agent learns on the real simulators."""

import csv
from statistics import mean

import pytest

from mtrl_fairgrad import train


@pytest.mark.slow
def test_two_tasks_are_trained_until_the_drawer_is_closed(tmp_path):
    """By the mean of three seeds: after so few steps a single one may be at any rate from 0 to 1."""
    folder = tmp_path / "run"
    arguments = [
        "preset=quick",
        "env.tasks=[reach-v3,drawer-close-v3]",
        "method.solver=newton",
        "steps=4000",
        "eval.every=4000",
        "seeds=[0,1,2]",
        "progress=false",
        "threads=1",
        f"run_dir={folder}",
    ]
    assert train.main(arguments) == 0
    with (folder / "evaluations.csv").open() as file:
        drawer = [row for row in csv.DictReader(file) if row["task"] == "drawer-close-v3"]
    untrained, trained = (
        mean(float(row["success"]) for row in drawer if row["env_steps"] == steps) for steps in ("0", "4000")
    )
    assert untrained <= 0.2 and trained >= 0.4, [row["success"] for row in drawer]
