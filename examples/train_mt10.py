"""Train the multi-task agent from Python and read its results.

    python examples/train_mt10.py                              # a minute: MT10, 1,000 short steps
    python examples/train_mt10.py steps=5000 seeds=[0,1]       # any option of mtrl_fairgrad.train

Needs `pip install "mtrl-fairgrad[rl]"`.
"""

import sys
from collections import defaultdict
from pathlib import Path

from mtrl_fairgrad import train
from mtrl_fairgrad.runs.run_dir import RunFolder

FOLDER = Path("runs/example")
OPTIONS = ["preset=quick", "method=fairgrad", "alpha=2", "steps=1000", "eval.every=500"]


def main(options: list[str], folder: Path = FOLDER) -> dict[int, float]:
    """Train, or continue a training; return the success rate after each evaluation's env_steps."""
    code = train.main([*OPTIONS, f"run_dir={folder}", "resume=auto", *options])
    if code:
        sys.exit(code)
    success: dict[int, list[float]] = defaultdict(list)
    for row in RunFolder.open(folder).evaluations():  # one for each evaluation, seed and task
        success[row.env_steps].append(row.success)
    return {env_steps: sum(rates) / len(rates) for env_steps, rates in success.items()}


if __name__ == "__main__":
    for env_steps, rate in main(sys.argv[1:]).items():
        print(f"env_steps {env_steps:6}: mean success {rate:.3f}")
