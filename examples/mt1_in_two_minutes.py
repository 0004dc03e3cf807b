"""One MetaWorld task, learned in two minutes on two cores, and the policy that comes out.

    python examples/mt1_in_two_minutes.py

Needs `pip install "mtrl-fairgrad[rl]"`.
"""

from pathlib import Path

import numpy as np

import mtrl_fairgrad
from mtrl_fairgrad import Run, load_policy, make_vec

TASK = "drawer-close-v3"
OPTIONS = (
    *("env=mt1", f"env.task={TASK}", "preset=cpu", "env.train_horizon=100"),
    *("agent.observation_normalization=running", "steps=24000", "eval.every=8000"),
)


def play(folder: Path, episodes: int = 10, horizon: int = 200) -> float:
    """Let the trained policy play new episodes; return how many of them succeed."""
    policy = load_policy(folder)
    with make_vec(f"MT1-{TASK}", seed=100, horizon=horizon, workers=0) as envs:
        successes = []
        observations, _ = envs.reset()
        while len(successes) < episodes:
            observations, *_, infos = envs.step(policy(observations, task=TASK))
            if "final_info" in infos:
                successes.extend(infos["final_info"]["success_once"][infos["_final_info"]])
    return float(np.mean(successes))


def main(*options: str, folder: Path = Path("runs/mt1")) -> Run:
    """Train, or go on with a training that was interrupted; return the run."""
    run = mtrl_fairgrad.train(*OPTIONS, f"run_dir={folder}", "resume=auto", *options)
    for row in run.evaluations.rows():
        print(f"env_steps {row['env_steps']:5}: success {row['success']:.2f}")
    return run


if __name__ == "__main__":
    print(f"success of the policy on goals of another seed: {play(main().path):.2f}")
