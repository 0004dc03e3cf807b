"""Protocols: how their files compose, what a run of one leaves, how it goes on, and what is
refused.
"""

import csv
import signal
from dataclasses import fields

import pytest
import yaml

from mtrl_fairgrad import evaluate, train
from mtrl_fairgrad.analysis.run_groups import protocol_of
from mtrl_fairgrad.config.env import SUITE_OF, EnvConfig, task_names
from mtrl_fairgrad.config.groups import config_dir, config_group
from mtrl_fairgrad.config.schema import Config, changed_keys, keep_stored_options, to_dict
from mtrl_fairgrad.envs.metaworld import OBSERVATIONS
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.factory import make_suite, protocol
from tests.support.errors import refused
from tests.support.processes import start_training, wait_for_checkpoint
from tests.support.tiny_runs import (
    FALLING,
    FALLING_TASKS,
    TINY,
    assert_same_checkpoint,
    checkpoint,
    checkpoint_steps,
    composed,
    rows,
)

# ---- files ----


def test_every_protocol_is_a_file_of_its_suite():
    files = {path.stem for path in (config_dir() / "env").glob("*.yaml")}
    assert files == set(SUITE_OF)
    for name, suite in SUITE_OF.items():
        config = composed(f"env={name}")
        assert (config.env.name, config.env.suite) == (name, suite)
    (observation,) = (field for field in fields(EnvConfig) if field.name == "observation")
    assert set(observation.metadata["choices"]) == set(OBSERVATIONS)


@pytest.mark.parametrize("name", ["mt10", "mt50", "mt1", "gymnasium"])
def test_a_suites_file_has_every_option_in_order(name):
    written = yaml.safe_load((config_dir() / "env" / f"{name}.yaml").read_text())
    assert list(written) == list(to_dict(Config())["env"])


@pytest.mark.parametrize(
    ("name", "batch", "buffer", "tasks"), [("mt10", 128, 100_000, 10), ("mt50", 26, 20_000, 50)]
)
def test_the_papers_protocols(name, batch, buffer, tasks):
    config = composed(f"env={name}_paper")
    env, agent = config.env, config.agent
    assert (env.horizon, env.one_hot, env.reward_version) == (150, False, "v1")
    assert (env.goals, env.observation, config.eval.episodes) == ("frozen", "hand_objects_goal", 1)
    assert (agent.batch_size, agent.buffer_size, agent.warmup_steps) == (batch, buffer, 1500)
    assert (agent.adam_epsilon, agent.max_gradient_norm) == (1e-8, None)
    assert (agent.twin_loss, agent.temperature_loss) == ("sum", "linear")
    suite = make_suite(config, task_names(config.env))
    assert (suite.observation_size, suite.action_size, len(suite.tasks)) == (12, 4, tasks)


def test_a_protocol_is_changed_by_presets_and_the_command_line_and_by_nothing_else():
    paper = ["env=mt10_paper", "agent.warmup_steps=7", "env.horizon=30"]
    assert composed(*paper).agent.warmup_steps == 7 == composed(*reversed(paper)).agent.warmup_steps
    assert composed(*paper).env.horizon == 30
    quick = composed("env=mt10_paper", "preset=quick")
    assert (quick.env.horizon, quick.agent.warmup_steps, quick.agent.batch_size) == (150, 500, 64)
    assert (quick.env.goals, quick.agent.max_gradient_norm) == ("frozen", None)
    changed = {key for key, *_ in changed_keys(to_dict(composed()), to_dict(composed("env=mt50")))}
    assert changed == {"env.name", "env.suite"}


ENVS = sorted(config_group("env"))


@pytest.mark.parametrize("preset", sorted(config_group("preset")))
def test_presets_keep_what_a_protocol_says_of_episodes_and_success(preset):
    """preset=quick shortens Meta-World's episodes where the field's protocol has 500 steps,
    preset=fast and preset=cpu those of training alone, and preset=table4 is about one protocol,
    unless another is given.
    """
    copies = {"fast": 16, "cpu": 8, "mt10_plus": 8}
    shortened = {"quick": "horizon", "fast": "train_horizon", "cpu": "train_horizon"}
    for env in ENVS:
        task = {
            "mt1": ["env.task=reach-v3"],
            "gymnasium": ["env.tasks=[InvertedPendulum-v5]"],
        }.get(env, [])
        words = [f"env={env}", *task]
        plain, config = composed(*words), composed(*words, f"preset={preset}")
        expected = to_dict(plain)["env"]
        if preset in shortened and env in ("mt1", "mt10", "mt50"):
            expected |= {shortened[preset]: 200}
        if preset in copies:
            expected |= {"copies": copies[preset], "stagger": True}
        assert to_dict(config)["env"] == expected, env
        assert config.eval.episodes == plain.eval.episodes


def test_a_run_of_an_older_version_keeps_its_horizon():
    words = ["preset=quick", "env=gymnasium", "env.tasks=[InvertedPendulum-v5]"]
    config = composed(*words)
    keep_stored_options(config, {"env": {"horizon": 200}}, words)
    assert config.env.horizon == 200
    keep_stored_options(config, {"env": {"horizon": 300}}, [*words, "env.horizon=200"])
    assert config.env.horizon == 200


def test_a_composed_run_reads_back_as_itself():
    for name in ("mt10_paper", "gymnasium"):
        config = composed(
            f"env={name}",
            *(["env.tasks=[Pendulum-v1]", "env.success_return=[-200]"] * (name[0] == "g")),
        )
        assert yaml.safe_load(yaml.safe_dump(to_dict(config))) == to_dict(config)


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["env=mt10_paper", "eval.episodes=10"], "eval.episodes", 10),
        (["env.goals=frozen"], "eval.episodes", 10),
        (["env.goals=fixed"], "env.goals", "fixed"),
        (["env.goals=null"], "env.goals", None),
        (["env.observation=hand"], "env.observation", "hand"),
        (["env.horizon=null"], "env.horizon", None),
        (["env.success_return=3"], "env.success_return", 3),
        (["env.task_options=[{}]"], "env.task_options", [{}]),
        (["env.name=mine"], "env.suite", "mt10"),
        (["env=gymnasium", "env.reward_version=v1"], "env.reward_version", "v1"),
        (["env.fast=null"], "env.fast", None),
        (["env=gymnasium", "env.fast=true"], "env.fast", True),
        (["env=gymnasium", "env.goals=frozen"], "env.goals", "frozen"),
        (["env=gymnasium", "env.task=reach-v3"], "env.task", "reach-v3"),
        (["env=gymnasium", "env.horizon=0"], "env.horizon", 0),
        (["env=gymnasium", "env.task_options=[5]"], "env.task_options", [5]),
        (["env=gymnasium", "eval.episodes=51"], "eval.episodes", 51),
    ],
    ids=str,
)
def test_mistakes_end_in_one_sentence(overrides, key, value):
    with refused(key, value):
        composed(*overrides)


# ---- what stands in results ----


def words(*overrides):
    config = composed(*overrides)
    return protocol(config, make_suite(config, task_names(config.env)))


def test_what_a_success_rate_means_is_said_in_words():
    assert words() == {
        "simulators": "Meta-World v3",
        "success": "any step",
        "last_evaluation": "50 episodes",
    }
    assert words("env=mt50_paper") == {
        "simulators": "Meta-World v3, not the paper's of 2021",
        "success": "any step",
        "last_evaluation": "1 episode",
    }
    tasks = ["env=gymnasium", "env.tasks=[Pendulum-v1,Pendulum-v1]", "env.task_options=[{g: 5},{}]"]
    assert words(*tasks, "env.success_return=[-300,-200]") == {
        "simulators": "Gymnasium's Pendulum-v1(g=5), Pendulum-v1",
        "episode_steps": "200",
        "success": "return ≥ -300, return ≥ -200",
        "last_evaluation": "50 episodes",
    }


# ---- runs ----


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train.main([*FALLING, f"run_dir={folder}"]) == 0
    return folder


def test_a_run_on_gymnasiums_tasks_says_what_it_measured(finished):
    found = rows(finished)
    assert {(row["env_steps"], row["episodes"]) for row in found} == {
        ("0", "1"),
        ("40", "1"),
        ("80", "1"),
        ("100", "50"),
    }
    assert [row["task"] for row in found[:2]] == FALLING_TASKS
    line = protocol_of(RunFolder.open(finished), FALLING_TASKS)
    assert (
        line.startswith("gymnasium · 2 tasks · one hot · ")
        and f"simulators Gymnasium's {FALLING_TASKS[0]}, {FALLING_TASKS[1]}" in line
    )
    assert (
        "episode steps 30" in line
        and "success is_success in any step" in line
        and "50 episodes" in line
    )
    assert {row["protocol"] for row in csv.DictReader((finished / "report.csv").open())} == {line}


def test_its_evaluation_can_be_repeated(finished, capsys):
    assert evaluate.main([str(finished), "--workers", "0"]) == 0
    again = list(csv.DictReader((finished / "evaluation-100-50-goals.csv").open()))
    last = [row for row in rows(finished) if row["env_steps"] == "100"]
    assert [(r["seed"], r["task"], r["return"]) for r in again] == [
        (r["seed"], r["task"], r["return"]) for r in last
    ]
    assert {row["protocol"] for row in again} == {
        protocol_of(RunFolder.open(finished), FALLING_TASKS)
    }
    assert again[0]["protocol"] in capsys.readouterr().out


def test_workers_change_nothing(finished, tmp_path):
    arguments = [word for word in FALLING if "workers" not in word]
    more = ["env.workers=1", "eval.workers=1", f"run_dir={tmp_path / 'r'}"]
    assert train.main([*arguments, *more]) == 0
    assert_same_checkpoint(finished, tmp_path / "r")
    assert rows(finished) == rows(tmp_path / "r")


@pytest.mark.parametrize("steps", [40, 53])
def test_it_resumes_inside_episodes_bit_for_bit(steps, finished, tmp_path):
    """After an evaluation, and where it ended: both between no two episodes."""
    folder = tmp_path / "parts"
    assert train.main([*FALLING, f"run_dir={folder}", f"steps={steps}"]) == 0
    counts = checkpoint(folder)["simulators"]["action_counts"]
    assert len(set(counts.tolist())) > 1 and counts.any()
    assert train.main([f"resume={folder}", "steps=100"]) == 0
    assert_same_checkpoint(finished, folder)
    assert [row for row in rows(folder) if row["env_steps"] == "100"] == rows(finished)[-2:]


def test_a_run_that_does_not_repeat_itself_is_told_and_not_resumed(tmp_path, capsys):
    folder = tmp_path / "r"
    drifting = "env.task_options=[{},{drifts: true}]"
    assert train.main([*FALLING, drifting, "steps=47", f"run_dir={folder}"]) == 0
    assert (
        "note: task tests.support.point_mass:PointMass-v0(drifts=true) does not repeat"
        in capsys.readouterr().out
    )
    assert train.main([f"resume={folder}", "steps=60"]) == 2
    error = capsys.readouterr().err
    assert "cannot be continued exactly" in error and error.count("\n") == 1
    assert evaluate.main([str(folder), "--goals", "1", "--workers", "0"]) == 0


@pytest.mark.exhaustive
def test_a_signal_leaves_a_checkpoint_at_once(tmp_path):
    folder = tmp_path / "r"
    process = start_training([*FALLING, "steps=40000"], folder)
    wait_for_checkpoint(folder, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM and "with a checkpoint" in output, output
    steps = checkpoint_steps(folder)[0] + 30
    assert train.main([f"resume={folder}", f"steps={steps}"]) == 0
    assert train.main([*FALLING, f"steps={steps}", f"run_dir={tmp_path / 'whole'}"]) == 0
    assert_same_checkpoint(folder, tmp_path / "whole")


PAPER = [
    *(word for word in TINY if not word.startswith("eval.episodes")),
    "env=mt10_paper",
    "agent.batch_size=8",
    "method.solver=newton",
]


def test_agents_of_their_own_have_temperatures_of_their_own_under_any_protocol():
    assert composed("env=mt10_paper").agent.temperature == "shared"
    assert composed("env=mt10_paper", "agent=stl").agent.temperature == "per_task"


@pytest.mark.exhaustive
def test_a_run_of_the_papers_protocol_plays_one_frozen_goal(tmp_path, capsys):
    folder = tmp_path / "r"
    assert train.main([*PAPER, "steps=40", f"run_dir={folder}"]) == 0
    assert {row["episodes"] for row in rows(folder)} == {"1"}
    suite = make_suite(composed("env=mt10_paper"), ("reach-v3", "drawer-close-v3"))
    assert checkpoint(folder)["simulators"]["goals"].tolist() == [
        int(suite.goals(0, task)[0]) for task in suite.tasks
    ]
    line = protocol_of(RunFolder.open(folder), suite.tasks)
    assert line == (
        "mt10_paper · 2 tasks · suite mt10 · horizon 20 · no one hot · reward version v1 · goals "
        "frozen · observation hand_objects_goal · eval every 40 · eval episodes 1 · simulators "
        "Meta-World v3, not the paper's of 2021 · success any step · last evaluation 1 episode"
    )
    assert train.main([f"resume={folder}", "steps=60"]) == 0
    capsys.readouterr()
    assert evaluate.main([str(folder), "--workers", "0"]) == 0 and line in capsys.readouterr().out
    assert (folder / "evaluation-60-1-goals.csv").exists()
    assert evaluate.main([str(folder), "--goals", "2"]) == 2
    assert "a task has one goal, so leave --goals out." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["env.tasks=null", "env.task_options=null"], "env=gymnasium needs to know its tasks"),
        (["env.tasks=[Pendulm-v1,Pendulum-v1]"], "Did you mean: `Pendulum`?"),
        (["env.tasks=[nowhere_at_all:A-v0,Pendulum-v1]"], "install what is missing"),
        (
            ["env.task_options=[{},{numbers: 3}]"],
            "PointMass-v0(numbers=3) have shape [3] and those of",
        ),
        (["env.task_options=[{}]"], "env.task_options has 1 entries for 2 tasks"),
        (["env.tasks=[tests.support.point_mass:Endless-v0,Pendulum-v1]"], "add env.horizon=STEPS."),
        (["env.success_return=[1,2,3]"], "env.success_return=[1, 2, 3] does not fit 2 tasks"),
    ],
)
def test_what_cannot_be_trained_on_is_said_before_anything_is_written(
    arguments, said, tmp_path, capsys
):
    assert train.main([*FALLING, *arguments, f"run_dir={tmp_path / 'r'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("error: ")
    assert not (tmp_path / "r").exists()
