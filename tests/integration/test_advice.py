"""Commands that an error message proposes work, and values whose meaning is clear are accepted."""

import re

import pytest

from mtrl_fairgrad import train
from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.config.schema import check_parts
from mtrl_fairgrad.supervised import __main__ as supervised
from tests.support.point_mass import PointMass
from tests.support.tiny_runs import POINT_MASS_TASKS

NEAR = POINT_MASS_TASKS[0]
COMMANDS = {"train": train, "supervised": supervised}


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that gives the checked configuration of a command, or the error."""
    found = []

    def start(config, overrides):
        if hasattr(config, "env"):
            config.env.tasks = list(task_names(config.env))
            check_parts(config)
        found.append(config)
        return 0

    for command in COMMANDS.values():
        monkeypatch.setattr(command, "start", start)

    def call(command, words):
        found.clear()
        code = COMMANDS[command].main(words)
        error = capsys.readouterr().err
        assert (code, bool(found), bool(error)) in ((0, True, False), (2, False, True)), error
        return found[0] if found else error

    return call


# command, what is typed, the proposed word, what is typed then
ADVICE = [
    ("train", "env=mt1", "env.task=reach-v3", "env=mt1 env.task=reach-v3"),
    ("train", "env=mt1 env.tasks=push-v3", "env.task=push-v3", "env=mt1 env.task=push-v3"),
    ("train", "env=mt1 task=reach-v3", "env.task", "env=mt1 env.task=reach-v3"),
    ("train", "env.task=reach-v3", "env.tasks=[reach-v3]", "env.tasks=[reach-v3]"),
    ("train", "env.task=reach-v3", "env=mt1", "env=mt1 env.task=reach-v3"),
    ("train", "env.tasks=hammer-v3", "env=mt50", "env=mt50 env.tasks=hammer-v3"),
    ("train", "method.c=1", "method=cagrad", "method=cagrad method.c=1"),
    ("train", "seed=3", "seeds", "seeds=3"),
    ("train", "seeds=0,1", "seeds=[0,1]", "seeds=[0,1]"),
    ("train", "agent.lr=1", "agent.learning_rate", "agent.learning_rate=1"),
    ("train", "agent.hidden_size=9", "agent.width", "agent.width=9"),
    ("train", "gamma=0.9", "agent.discount", "agent.discount=0.9"),
    ("train", "method=ls alpha=2", "method=fairgrad", "method=fairgrad alpha=2"),
    ("train", "env.goals=frozen", "eval.episodes=1", "env.goals=frozen eval.episodes=1"),
    ("train", "env.suite=mt50", "env=mt50", "env=mt50"),
    ("train", "env=gymnasium", "env.tasks=[ID,…]", f"env=gymnasium env.tasks=[{NEAR}]"),
    ("supervised", "lr=1", "learning_rate", "learning_rate=1"),
    ("supervised", "benchmark.lr=1", "learning_rate", "learning_rate=1"),
    ("supervised", "alphas=2", "alpha", "alpha=2"),
    (
        "supervised",
        "benchmark=toy lr=1",
        "learning_rate",
        "benchmark=toy benchmark.learning_rate=1",
    ),
    ("supervised", "benchmark.alphas=2", "benchmark=toy", "benchmark=toy benchmark.alphas=2"),
    ("supervised", "search.step=1", "compare=search", "compare=search search.radius=1"),
]


@pytest.mark.parametrize(("command", "typed", "proposed", "then"), ADVICE)
def test_a_proposed_word_works(command, typed, proposed, then, run):
    error = run(command, typed.split())
    assert isinstance(error, str), error
    assert re.search(rf"{re.escape(proposed)}(?![\w-]|\.\w)", error), error
    assert not isinstance(run(command, then.split()), str)


def test_no_option_of_another_choice_is_proposed(run):
    assert "benchmark.learning_rate" not in run("supervised", ["benchmark.lr=1"])
    assert "benchmark.learning_rate" in run("supervised", ["benchmark=toy", "benchmark.lr=1"])


def test_single_values_stand_for_lists_and_whole_floats_for_integers(run):
    words = "seeds=3 env.tasks=reach-v3 steps=1e6 agent.buffer_size=2e5 eval.every=1e3"
    config = run("train", [*words.split(), "method=imtl_g"])
    assert (config.seeds, config.env.tasks, config.steps) == ([3], ["reach-v3"], 1_000_000)
    assert (config.agent.buffer_size, config.eval.every) == (200_000, 1000)
    assert all(type(value) is int for value in (config.steps, config.agent.buffer_size))
    config = run(
        "train", ["env=gymnasium", f"env.tasks={POINT_MASS_NAME}", "env.task_options={edge: 1.5}"]
    )
    assert config.env.task_options == [{"edge": 1.5}]
    config = run("supervised", ["seeds=3", "epochs=1e1", "benchmark.pairs=1e3"])
    assert (config.seeds, config.epochs, config.benchmark["pairs"]) == ([3], 10, 1000)
    assert run("supervised", ["benchmark=toy", "benchmark.alphas=2"]).benchmark["alphas"] == [2]


def test_a_fraction_stays_refused(run):
    assert "steps" in run("train", ["steps=1.5"])
    assert "seeds" in run("train", ["seeds=0.5"])


POINT_MASS_NAME = f"{PointMass.__module__}:PointMass-v0"
