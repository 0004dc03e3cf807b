"""Command lines, configurations and run folders that nobody would write: one sentence and code 2,
or a run that begins.

FUZZ_EXAMPLES=1000 FUZZ_PROCESSES=50 try more of them.
"""

import json
import os
import subprocess
import sys

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtrl_fairgrad import evaluate, report, train, verify
from mtrl_fairgrad.analysis.report import report_files
from mtrl_fairgrad.config.schema import Config, to_dict
from mtrl_fairgrad.runs.run_dir import Evaluation, RunFolder
from mtrl_fairgrad.supervised import __main__ as supervised
from mtrl_fairgrad.supervised.config import SupervisedConfig
from tests.support import fuzzing
from tests.support.fuzzing import (
    EXAMPLES,
    PROCESSES,
    Tally,
    answer,
    check_answer,
    damaged,
    known_keys,
    options,
)
from tests.support.paths import ROOT
from tests.support.tiny_runs import TASKS, TINY, composed

OF_A_RUN = [word for word in TINY if not word.startswith("steps")]


def tried(percent):
    """That share of all examples, the same at every run."""
    return settings(
        max_examples=max(EXAMPLES * percent // 100, 1),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory):
    """An empty folder, and nothing is trained, simulated or fitted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        patch.setattr(train, "open_folder", lambda *_: None)
        patch.setattr(train, "run_training", lambda *_: 0)
        patch.setattr(supervised, "start", lambda *_: 0)
        patch.setattr("mtrl_fairgrad.evaluation.runner.evaluate_target", lambda *_: None)
        patch.setattr(report_files, "as_png", lambda groups: b"")  # takes a second
        yield


@pytest.fixture(scope="module")
def run(alone):
    """A run's folder without a checkpoint, and its configuration and manifest, which the examples
    damage.
    """
    config = to_dict(composed(*TINY)) | {"run_dir": "run"}
    config["env"]["tasks"] = TASKS
    folder = RunFolder.create(
        "run", config, {"overrides": TINY, "device": "cpu", "protocol": {"goals": "random"}}
    )
    folder.append_evaluation(
        Evaluation(100 * n, 0, task, 1, n / 2, 1.0) for n in range(3) for task in TASKS
    )
    return folder


def test_command_lines_of_training():
    tally = Tally()

    @tried(45)
    @given(
        st.lists(fuzzing.words(known_keys(Config(method={}))), max_size=3),
        st.sampled_from(["first", "last"]),
    )
    def property_of(words, place):
        given = [*words, *TINY] if place == "first" else [*TINY, *words]
        sweep = {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(words)
        if sweep:  # each of its runs has a sentence
            return
        tally[answer(train.main, given)] += 1

    property_of()
    tally.of_both()


def test_command_lines_of_supervised_benchmarks():
    tally = Tally()
    keys = known_keys(SupervisedConfig(benchmark={}, method={}))

    @tried(15)
    @given(st.lists(fuzzing.words(keys).filter(lambda word: word not in TINY), max_size=2))
    def property_of(words):
        if not {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(words):
            tally[answer(supervised.main, words)] += 1

    property_of()
    tally.of_both()


def test_folders_of_runs(run):
    tally = Tally()
    config, manifest = run.path / "config.yaml", run.path / "manifest.json"
    sound = config.read_bytes(), manifest.read_bytes()
    files = st.one_of(
        st.tuples(damaged(run.config, yaml.safe_dump), st.just(sound[1])),
        st.tuples(st.just(sound[0]), damaged(run.manifest, json.dumps)),
        st.just(sound),
    )
    commands = st.sampled_from(
        [(train, "resume=run"), (evaluate, "run"), (report, "run"), (verify, "run")]
    )

    @tried(30)
    @given(files, commands)
    def property_of(written, command):
        config.write_bytes(written[0])
        manifest.write_bytes(written[1])
        module, word = command
        tally[
            answer(
                module.main,
                [word],
                allowed=["run"],
                codes=(0, 1, 2) if module is verify else (0, 2),
            )
        ] += 1

    property_of()
    tally.of_both()


FLAGS = {
    evaluate: [
        "--step",
        "--goals",
        "--workers",
        "--out",
        "--video",
        "--video-goal",
        "--seed",
        "--export",
    ],
    report: ["--out", "--html", "--latex", "--markdown", "--figures"],
    verify: ["--json"],
}


@pytest.mark.parametrize("module", [evaluate, report, verify], ids=lambda module: module.__name__)
def test_command_lines_of_the_other_commands(module, run):
    @tried(4)
    @given(st.sampled_from(["run", "nothing", ""]), options(FLAGS[module]))
    def property_of(folder, words):
        answer(
            module.main,
            [folder, *words],
            allowed=["run", *words],
            codes=(0, 1, 2) if module is verify else (0, 2),
        )

    property_of()


COMMANDS = ("train", "train", "evaluate", "report", "supervised", "verify", "search")


def test_processes(run, tmp_path):
    """As users start them; those of training begin nothing, because the last word is always a
    mistake.
    """
    seen = Tally()

    @settings(tried(100), max_examples=PROCESSES)
    @given(
        st.sampled_from(COMMANDS),
        st.lists(fuzzing.words(known_keys(Config(method={}))), max_size=2),
    )
    def property_of(command, words):
        words = [
            word.encode("utf-8", "surrogateescape")
            for word in words
            if "\0" not in word and len(word) < 9000
        ]
        folder = {"evaluate": [b"nothing"], "report": [b"nothing"], "verify": [b"nothing"]}.get(
            command, [b"agnet.x=1"]
        )
        line = [sys.executable, "-m", f"mtrl_fairgrad.{command}", *words, *folder]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        found = subprocess.run(
            line, cwd=tmp_path, env=environment, capture_output=True, timeout=120
        )
        check_answer(found.returncode, found.stderr.decode())
        assert not list(tmp_path.iterdir())
        seen[found.returncode] += 1

    property_of()
    assert seen[2]
