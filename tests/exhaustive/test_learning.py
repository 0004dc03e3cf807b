"""The agent learns on a real simulator; Meta-World's tasks would need far more steps."""

import csv
from statistics import mean

from mtrl_fairgrad import train


def test_two_pendulums_are_balanced_longer_by_every_seed(tmp_path):
    folder = tmp_path / "run"
    arguments = [
        "env=gymnasium",
        "env.tasks=[InvertedPendulum-v5,InvertedPendulum-v5]",
        "env.task_options=[{reset_noise_scale: 0.01},{reset_noise_scale: 0.1}]",
        "method.solver=newton",
        "agent.width=64",
        "agent.batch_size=64",
        "agent.buffer_size=5000",
        "agent.warmup_steps=500",
        "agent.learning_rate=1e-3",
        "agent.temperature_learning_rate=1e-3",
        "steps=1500",
        "eval.every=1500",
        "seeds=[0,1,2]",
        "progress=false",
        "threads=1",
        f"run_dir={folder}",
    ]
    assert train.main(arguments) == 0
    with (folder / "evaluations.csv").open() as file:
        rows = list(csv.DictReader(file))

    def returns(env_steps, seed):
        """Steps until it fell, mean of both tasks."""
        return mean(
            float(row["return"])
            for row in rows
            if (row["env_steps"], row["seed"]) == (env_steps, seed)
        )

    for seed in ("0", "1", "2"):
        assert returns("0", seed) < 30 and returns("1500", seed) > 2 * returns("0", seed), rows
