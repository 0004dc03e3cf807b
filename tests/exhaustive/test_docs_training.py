"""Pages that train, literally but for the size: their Python blocks and the first commands."""

import os
import subprocess
import sys

import pytest

from tests.integration.test_docs_code import TRAINING
from tests.support.pages import DOCS, ROOT, code, commands, words

SMALL = [
    "env.tasks=[reach-v3,push-v3]",
    *("env.horizon=10", "env.workers=0", "eval.workers=0", "eval.episodes=1", "eval.every=20"),
    *("agent.width=8", "agent.depth=1", "agent.batch_size=4", "agent.warmup_steps=4"),
    *("agent.buffer_size=200", "progress=false", "threads=1"),
]
HEAD = f"""
import mtrl_fairgrad
from mtrl_fairgrad.api import run, training

whole = training.train

def small(*overrides, steps=40, **options):
    if "resume" in options:
        return whole(*overrides, steps=60, **options)
    return whole(*overrides, *{SMALL!r}, steps=40, **options)

training.train = small
"""


def run(words_, folder):
    done = subprocess.run(
        [sys.executable, *words_],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", TRAINING)
def test_the_code_of_a_page_that_trains_runs(page, tmp_path):
    blocks = "\n\n".join([HEAD, *code(ROOT / page, "python")])
    script = tmp_path / "page.py"  # a file, since worker processes import the main module
    script.write_text(f"if __name__ == '__main__':\n    exec({blocks!r})\n")
    run([str(script)], tmp_path)


def test_the_first_ten_minutes_work_as_they_are_written(tmp_path):
    first = [each for page, each in commands() if page == "docs/index.md"]
    [train] = [each for each in first if "mtrl_fairgrad.train" in each]
    [report] = [each for each in first if "mtrl_fairgrad.report" in each]
    output = run([*words(train)[1:], *SMALL, "steps=40"], tmp_path)
    assert "run folder: runs/first" in output
    run(words(report)[1:], tmp_path)
    assert "<html" in (tmp_path / "report.html").read_text()


def test_an_environment_of_ones_own_trains_as_the_page_says(tmp_path):
    page = DOCS / "extend" / "environment.md"
    [module] = code(page, "python")
    (tmp_path / "reach_a_point.py").write_text(module)
    command = code(page, "console")[0].replace("\\\n", " ").removeprefix("$ ")
    small = [word for word in SMALL if not word.startswith(("env.tasks", "env.horizon"))]
    run([*words(command)[1:], *small, "steps=40", "run_dir=run"], tmp_path)
    assert (tmp_path / "run" / "evaluations.csv").is_file()
