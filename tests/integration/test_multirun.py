"""Sweeps: folders and their names, what is skipped and what goes on, mistakes among other runs, and
real launchers.
"""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path

import pytest

from mtrl_fairgrad import train
from mtrl_fairgrad.cli.multirun import MAX_ATTEMPTS, Sweep, SweepFolderCallback
from mtrl_fairgrad.cli.run_names import old_run_name
from mtrl_fairgrad.config.schema import ConfigError
from mtrl_fairgrad.runs.run_dir import COLUMNS
from mtrl_fairgrad.utils.atomic_io import remove
from tests.support.paths import ROOT
from tests.support.tiny_runs import POINT_MASS, POINT_MASS_ONE, assert_same_checkpoint, rows

SHORT = [
    *POINT_MASS,
    *POINT_MASS_ONE,
    "env.horizon=10",
    "eval.every=20",
    "steps=20",
    "agent.warmup_steps=5",
]


def needs(plugin):
    missing = find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{plugin}") is None
    extra = "ray" if "ray" in plugin else "sweep"
    return pytest.mark.skipif(
        missing, reason=f'{plugin} is not installed (pip install "mtrl-fairgrad[{extra}]")'
    )


def folders(sweep):
    return sorted(path.parent for path in sweep.glob("*/config.yaml"))


# ---- what becomes of a sweep; its runs are invented ----


@pytest.fixture
def invented(tmp_path, monkeypatch):
    """Return a function that sweeps in this process, with runs whose course is `course(config)`."""

    def sweep(course, *words):
        monkeypatch.setattr(train, "start", lambda config, overrides: course(config))
        return train.main([*SHORT, "-m", f"hydra.sweep.dir={tmp_path / 's'}", *words])

    return sweep


def test_every_run_has_a_folder_of_its_own_to_begin_or_go_on_in(invented, tmp_path):
    seen = []
    assert (
        invented(lambda config: seen.append(config) or 0, "method=ls,pcgrad", "seeds=[0],[1]") == 0
    )
    names = [Path(config.run_dir).relative_to(tmp_path / "s") for config in seen]
    assert len(set(names)) == 4 and str(names[0]).startswith("ls-seeds0-gymnasium-tasks")
    assert {config.resume for config in seen} == {"auto"}
    assert not list((tmp_path / "s").glob("*/")) and not (tmp_path / "s" / ".sweeps").exists(), (
        "nothing was written"
    )


def test_a_sweep_of_an_older_version_goes_on_in_its_folders(invented, tmp_path):
    seen = []
    words = [word.replace(":", "\\:") for word in [*SHORT, "seeds=[1]"]]  # as Hydra writes them
    last = {word.partition("=")[0]: word for word in words}  # of each option
    old = tmp_path / "s" / old_run_name(list(last.values()))
    assert old.name.startswith("env=gymnasium,seeds=1,steps=20,")
    old.mkdir(parents=True)
    (old / "config.yaml").touch()
    assert invented(lambda config: seen.append(Path(config.run_dir)) or 0, "seeds=[0],[1]") == 0
    assert seen[1] == old and seen[0] != old and seen[0].parent == old.parent


def test_a_folder_that_is_given_is_kept(invented, tmp_path):
    seen = []
    assert (
        invented(
            lambda config: seen.append(config.run_dir) or 0,
            "seeds=[1]",
            f"run_dir={tmp_path / 'mine'}",
        )
        == 0
    )
    assert seen == [str(tmp_path / "mine")]


def test_links_in_a_sweeps_folder_lead_nowhere(invented, tmp_path, capsys):
    outside, sweep, seen = tmp_path / "outside", tmp_path / "s", []
    for folder in (outside, sweep):
        folder.mkdir()
    (outside / "multirun.yaml").write_text("precious")
    (sweep / "multirun.yaml").symlink_to(outside / "multirun.yaml")
    assert invented(lambda config: seen.append(Path(config.run_dir)) or 0, "seeds=[0],[1]") == 0
    assert (outside / "multirun.yaml").read_text() == "precious"
    assert not (sweep / "multirun.yaml").is_symlink()
    seen[0].symlink_to(outside)
    assert invented(lambda config: 0, "seeds=[0],[1]") == 2
    assert f"{seen[0]} is a symbolic link" in capsys.readouterr().err
    (sweep / ".sweeps").symlink_to(outside)
    assert invented(lambda config: 0, "seeds=[1],[2]") == 2
    assert f"{sweep / '.sweeps'} is a symbolic link" in capsys.readouterr().err
    assert [path.name for path in outside.iterdir()] == ["multirun.yaml"]


def test_a_mistake_of_one_run_is_told_with_its_name_and_the_others_go_on(invented, capsys):
    seen = []
    assert invented(lambda config: seen.append(config) or 0, "method=ls,fairgrad", "alpha=1") == 2
    assert [config.method["name"] for config in seen] == ["fairgrad"]
    found = capsys.readouterr()
    last = found.err.splitlines()[-1]
    assert last.startswith("error: ls-alpha1-gymnasium-") and "method=ls has no alpha" in last
    assert "sweep: 1 runs finished, 1 not, in " in found.out


@pytest.mark.parametrize("fault", [ConfigError("no."), RuntimeError("out of memory\nmore")])
def test_faults_of_all_kinds_end_one_run_alone(fault, invented, capsys):
    def course(config):
        if config.method["name"] == "ls":
            raise fault
        return {"pcgrad": 1}.get(config.method["name"], 0)

    assert invented(course, "method=fairgrad,ls,pcgrad,mgda") == 1
    found = capsys.readouterr()
    assert str(fault).partition("\n")[0] in found.err and "exit code 1" in found.err
    assert ("Traceback" in found.err) == isinstance(fault, RuntimeError)
    assert "2 runs finished, 2 not" in found.out


def test_stopping_a_run_stops_the_sweep_that_waits_for_it(invented, capsys):
    seen = []

    def course(config):
        seen.append(config)
        return 143

    assert invented(course, "method=ls,pcgrad") == 143
    assert len(seen) == 1
    found = capsys.readouterr()
    assert "it was stopped" in found.err
    assert "sweep: 0 runs finished, 2 not, in " in found.out


def test_a_launcher_without_a_sweep_and_a_sweep_without_the_word_are_refused(capsys):
    assert train.main([*SHORT, "hydra/launcher=basic"]) == 2
    assert "add --multirun" in capsys.readouterr().err
    assert train.main([*SHORT, "method=ls,pcgrad"]) == 2
    assert "method=ls,pcgrad names several runs: add --multirun" in capsys.readouterr().err


def test_an_unknown_choice_ends_the_sweep_before_anything_is_trained(invented, capsys):
    assert invented(lambda config: 0, "method=ls,farigrad") == 2
    assert "did you mean fairgrad?" in capsys.readouterr().err


@pytest.mark.skipif(
    find_spec("hydra_plugins") is not None
    and find_spec("hydra_plugins.hydra_ray_launcher") is not None,
    reason="the plugin is installed",
)
@pytest.mark.parametrize("launcher", ["ray", "ray_cluster"])
def test_a_missing_plugin_is_told_with_what_to_install(launcher, capsys):
    assert train.main([*SHORT, "-m", f"hydra/launcher={launcher}"]) == 2
    error = capsys.readouterr().err
    assert 'pip install "mtrl-fairgrad[ray]"' in error and error.count("\n") == 1


def test_a_broken_pool_begins_again_but_not_for_ever(tmp_path, monkeypatch, capsys):
    for breaks in (MAX_ATTEMPTS - 1, MAX_ATTEMPTS):
        sweep, begun = Sweep(), []

        def begin(begun=begun, breaks=breaks):
            monkeypatch.setattr(SweepFolderCallback, "folder", tmp_path)
            begun.append(1)
            if len(begun) <= breaks:
                raise BrokenProcessPool("a process in\nthe pool is gone")

        sweep.run(begin)
        assert len(begun) == MAX_ATTEMPTS
        assert sweep.close() == (0 if breaks < MAX_ATTEMPTS else 1)
    assert "the launcher failed" in capsys.readouterr().err


def test_what_is_no_sweeps_passes_through():
    def begin():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sweep().run(begin)


# ---- real runs ----


def test_the_same_command_completes_a_sweep(tmp_path, capsys):
    command = [*SHORT, "-m", "method=ls", "seeds=[0],[1]", f"hydra.sweep.dir={tmp_path / 's'}"]
    assert train.main([*SHORT, "method=ls", "seeds=[0]", f"run_dir={tmp_path / 'whole'}"]) == 0
    assert train.main(command) == 0
    one, _ = folders(tmp_path / "s")
    assert_same_checkpoint(one, tmp_path / "whole")
    for name in ("checkpoints", "metrics.csv", *(path.name for path in one.glob("events*"))):
        remove(one / name)  # as if it had been killed before its first checkpoint
    (one / "checkpoints").mkdir()
    (one / "evaluations.csv").write_text(",".join(COLUMNS) + "\n")
    capsys.readouterr()
    assert train.main(command) == 0
    assert capsys.readouterr().out.count("nothing is left to do") == 1
    assert_same_checkpoint(one, tmp_path / "whole")


DEFAULT_WORKERS = [word for word in SHORT if ".workers=" not in word]


def begin(*words, options=DEFAULT_WORKERS):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "mtrl_fairgrad.train", *options, "-m", *words]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def trainers(sweep):
    """Process → folder, of the processes that hold the lock of a run."""
    nodes = {
        f":{(path / 'run.lock').stat().st_ino}": path
        for path in folders(sweep)
        if (path / "run.lock").exists()
    }
    found = {}
    for line in Path("/proc/locks").read_text().splitlines():
        _, _, _, _, process, node, *_ = line.replace("->", "").split()
        for ending, path in nodes.items():
            if node.endswith(ending) and int(process) > 0:
                found[int(process)] = path
    return found


def one_in_training(sweep, process, beyond=0):
    """A process and its run, once that has a checkpoint beyond a step."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        for number, path in trainers(sweep).items():
            if any(int(file.name) > beyond for file in (path / "checkpoints").glob("0*")):
                return number, path
        time.sleep(0.05)
    raise AssertionError("no run got that far within four minutes")


@pytest.mark.exhaustive
@needs("hydra_joblib_launcher")
def test_joblib_runs_side_by_side_with_a_mistake_among_them(tmp_path):
    words = ["method=ls,fairgrad", "seeds=[0],[1]", "alpha=null,1", f"hydra.sweep.dir={tmp_path}"]
    process = begin("hydra/launcher=parallel", "env.workers=1", *words)
    output = process.communicate(timeout=500)[0]
    assert process.returncode == 2, output
    assert len(folders(tmp_path)) == 6 and "sweep: 6 runs finished, 2 not" in output
    assert (
        len(
            re.findall(
                r"^error: ls-alpha1-seeds\d-gymnasium.*method=ls has no alpha",
                output,
                re.M,
            )
        )
        == 2
    )
    assert re.search(r"^\[#\d\] env_steps 20: success", output, re.M)
    for path in folders(tmp_path):
        assert [row["env_steps"] for row in rows(path)] == ["0", "20"]


@pytest.mark.exhaustive
@pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="there is no /proc/locks to find a trainer by"
)
@needs("hydra_joblib_launcher")
def test_joblib_survives_that_a_process_is_killed(tmp_path):
    words = ["method=ls", "seeds=[0],[1]", "steps=400", f"hydra.sweep.dir={tmp_path / 's'}"]
    process = begin("hydra/launcher=parallel", "hydra.launcher.n_jobs=2", *words, options=SHORT)
    victim, run = one_in_training(tmp_path / "s", process, beyond=100)
    os.kill(victim, signal.SIGKILL)
    output = process.communicate(timeout=500)[0]
    assert process.returncode == 0, output
    assert (
        "a process of the sweep was killed" in output and "sweep: 2 runs finished, 0 not" in output
    )
    seed = re.search(r"seeds(\d)", run.name)[1]
    assert (
        train.main(
            [*SHORT, "method=ls", f"seeds=[{seed}]", "steps=400", f"run_dir={tmp_path / 'whole'}"]
        )
        == 0
    )
    assert_same_checkpoint(run, tmp_path / "whole")
    assert rows(run) == rows(tmp_path / "whole")


@pytest.mark.exhaustive
@pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="there is no /proc/locks to find a trainer by"
)
@needs("hydra_submitit_launcher")
def test_submitit_requeues_a_run_that_is_preempted(tmp_path):
    process = begin(
        "hydra/launcher=local_cluster", "seeds=[0],[1]", "steps=400", f"hydra.sweep.dir={tmp_path}"
    )
    number, run = one_in_training(tmp_path, process, beyond=100)
    os.kill(number, signal.SIGUSR2)
    output = process.communicate(timeout=500)[0]
    assert process.returncode == 0, output
    assert "sweep: 2 runs finished, 0 not" in output
    logs = "".join(path.read_text() for path in tmp_path.glob(".submitit/*/*_log.*"))
    stopped = re.search(r"stopped at env_steps (\d+), with a checkpoint", logs)
    assert stopped and int(stopped[1]) > 100 and "Requeued job" in logs
    steps = [row["env_steps"] for row in rows(run)]
    assert steps == [str(step) for step in range(0, 401, 20)]


@needs("hydra_ray_launcher")
def test_ray_runs_them_too(tmp_path):
    process = begin("hydra/launcher=ray_cluster", "seeds=[0],[1]", f"hydra.sweep.dir={tmp_path}")
    output = process.communicate(timeout=500)[0]
    assert process.returncode == 0, output
    assert "sweep: 2 runs finished, 0 not" in output and len(folders(tmp_path)) == 2
