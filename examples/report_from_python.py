"""Two methods compared from Python: train both, look at their numbers, write the report.

    python examples/report_from_python.py           # two minutes; report/index.html

Needs `pip install "mtrl-fairgrad[rl]"`.
"""

from pathlib import Path

import mtrl_fairgrad
from mtrl_fairgrad import Run
from mtrl_fairgrad.report import report

METHODS = ("ls", "fairgrad")
OPTIONS = (
    "env.tasks=[reach-v3,drawer-close-v3]",
    "preset=quick",
    "seeds=[0,1]",
    "steps=2000",
    "eval.every=500",
)


def main(*options: str, folder: Path = Path("runs/comparison")) -> list[Run]:
    """Train with each method, write `folder/report/`; return the runs."""
    runs = [
        mtrl_fairgrad.train(
            *OPTIONS, f"method={method}", f"run_dir={folder / method}", "resume=auto", *options
        )
        for method in METHODS
    ]
    for run, method in zip(runs, METHODS, strict=True):
        table = run.evaluations
        last = table.where(env_steps=table["env_steps"].max())
        for row in last.mean("success", by="task").rows():
            print(f"{method:9} {row['task']:16} success {row['success']:.2f}, mean of 2 seeds")
    out = folder / "report"
    report(
        [run.path for run in runs],
        out=out,
        html=out / "index.html",
        latex=out / "tables.tex",
        figures=out / "figures",
    )
    return runs


if __name__ == "__main__":
    main()
