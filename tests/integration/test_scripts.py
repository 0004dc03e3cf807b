"""The shell scripts: all rows of Table 4, and saving and requeueing under SLURM."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mtrl_fairgrad.analysis.paper_tables import paper_table
from tests.support.paths import ROOT
from tests.support.tiny_runs import composed


def commands(*arguments):
    """The rows' commands by their names, as words after the module."""
    script = [str(ROOT / "scripts" / "table4.sh"), "--dry-run", *arguments]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    found = [shlex.split(line) for line in printed.splitlines()]
    return {
        Path(words[-2]).name: words[words.index("mtrl_fairgrad.train") + 1 :] for words in found
    }


# ---- Table 4 ----


def test_every_row_of_the_table_has_a_command():
    rows = set(paper_table("table4").methods) - {"nash_mtl_original"}
    assert set(commands()) == rows
    assert commands()["cagrad"][-2:] == ["run_dir=runs/table4/cagrad", "resume=auto"]
    words = commands("/tmp/my table", "preset=quick", "seeds=[0]")["pcgrad"]
    assert words[-4:] == [
        "preset=quick",
        "seeds=[0]",
        "run_dir=/tmp/my table/pcgrad",
        "resume=auto",
    ]


@pytest.mark.parametrize("row", commands())
def test_every_row_composes_to_the_papers_numbers(row):
    config = composed(*commands()[row])
    assert (config.preset, config.env.name, config.steps, config.seeds) == (
        "table4",
        "mt10_paper",
        2_000_000,
        list(range(10)),
    )
    alone = row in ("stl", "mtl_sac", "mtl_sac_te", "mh_sac")
    assert config.agent.temperature == ("per_task" if alone else "shared")
    expected = {"cagrad": ("c", 0.9), "famo": ("gamma", 0.01), "fairgrad": ("alpha", 2.0)}
    if row in expected:
        key, value = expected[row]
        assert config.method[key] == value
    assert composed(*commands("preset=quick", "steps=400", "seeds=[0]")[row]).steps == 400


def test_a_row_that_fails_is_told_at_the_end_and_the_others_are_reported(tmp_path):
    log, stand_in = tmp_path / "log", tmp_path / "python"
    stand_in.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\ncase "$*" in *method=moco*) exit 1;; esac\n'
    )
    stand_in.chmod(0o755)
    script = [str(ROOT / "scripts" / "table4.sh"), str(tmp_path / "runs"), "steps=9"]
    found = subprocess.run(
        script, capture_output=True, text=True, env={**os.environ, "PYTHON": str(stand_in)}
    )
    assert found.returncode == 1 and "not finished: moco;" in found.stderr
    *rows, report = log.read_text().splitlines()
    assert len(rows) == 10 and all("steps=9" in row for row in rows)
    assert (
        report.startswith("-m mtrl_fairgrad.report")
        and report.count("/runs/") == 9 + 1
        and "/moco" not in report
    )
    stand_in.write_text("#!/bin/sh\nexit 143\n")
    found = subprocess.run(
        script, capture_output=True, text=True, env={**os.environ, "PYTHON": str(stand_in)}
    )
    assert found.returncode == 143 and found.stdout == "== stl\n"


def test_an_unknown_option_is_refused():
    found = subprocess.run(
        [str(ROOT / "scripts" / "table4.sh"), "--dry"], capture_output=True, text=True
    )
    assert found.returncode == 2 and "--dry is unknown" in found.stderr


# ---- SLURM ----

TRAINING = """#!/bin/sh
trap 'echo saving; sleep 0.5; echo saved; exit 138' USR1
trap 'sleep 0.2; echo ended; exit 143' TERM
echo started "$@"
[ "$1" = short ] && exit 3
while :; do sleep 0.05; done
"""


@pytest.fixture
def slurm(tmp_path):
    """Start scripts/slurm.sh as an array job, with stand-ins for training and scontrol."""
    for name, text in (("training", TRAINING), ("scontrol", "#!/bin/sh\necho scontrol $@\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "commands").write_text(
        f"{tmp_path / 'training'} short\n{tmp_path / 'training'} 'a b'\n"
    )

    def start(task):
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        environment |= {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "77"}
        script = [str(ROOT / "scripts" / "slurm.sh"), str(tmp_path / "commands")]
        return subprocess.Popen(
            script,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )

    return start


def test_a_job_whose_time_runs_out_waits_for_the_checkpoint_and_is_requeued(slurm):
    job = slurm(2)
    assert job.stdout.readline() == "started a b\n"
    job.send_signal(signal.SIGUSR1)
    output = job.communicate(timeout=30)[0]
    assert output.splitlines() == [
        "saving",
        "saved",
        "out of time, requeued",
        "scontrol requeue 77_2",
    ]
    assert job.returncode == 0


def test_a_job_that_is_cancelled_ends_in_order_and_is_not_requeued(slurm):
    job = slurm(2)
    assert job.stdout.readline() == "started a b\n"
    time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    assert job.communicate(timeout=30)[0] == "ended\n" and job.returncode == 143


def test_a_jobs_exit_code_is_its_trainings_and_a_missing_line_is_told(slurm):
    job = slurm(1)
    assert job.communicate(timeout=30)[0] == "started short\n" and job.returncode == 3
    job = slurm(3)
    assert (
        "has no line 3: give sbatch --array=1-2" in job.communicate(timeout=30)[0]
        and job.returncode == 2
    )
