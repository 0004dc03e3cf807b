"""`mtrl_fairgrad.evaluate`: maps of goals, exported policies evaluated again, films, and what is
refused.
"""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from mtrl_fairgrad import evaluate
from mtrl_fairgrad.config.schema import from_hydra, to_dict
from mtrl_fairgrad.envs.rendering import RenderingError, find_gl_backend
from mtrl_fairgrad.evaluation.outputs import compare
from mtrl_fairgrad.evaluation.target import load_agent
from mtrl_fairgrad.evaluation.videos import _policy_of_one_task
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.factory import make_agent
from tests.support.paths import SCRIPTS
from tests.support.tiny_runs import TASKS, TINY, composed
from tests.unit.evaluation.test_policy_export import run_alone

SCRIPT = SCRIPTS / "drive_exported_policy.py"


def teach_to_reach(actor):
    """Set stacked parameters of a network with three hidden layers so that the hand goes straight
    for the goal.
    """
    for value in actor.values():
        value.zero_()
    for axis in range(3):
        for unit, sign in ((axis, 1.0), (axis + 3, -1.0)):
            actor["weight0"][:, unit, 36 + axis], actor["weight0"][:, unit, axis] = sign, -sign
            actor["weight1"][:, unit, unit] = actor["weight2"][:, unit, unit] = 1.0
            # Another haste for each seed and task, so that it matters which one is asked.
            actor["weight3"][:, axis, unit] = sign * torch.linspace(8, 12, len(actor["weight3"]))


def make_run(folder, method):
    """A run of two seeds whose newest checkpoint holds policies that reach some of their goals in
    36 steps.
    """
    config = composed(
        *TINY, f"method={method}", "seeds=[0,1]", "env.horizon=36", f"run_dir={folder}"
    )
    agent = make_agent(config, 2, 41, 4, torch.device("cpu"))
    teach_to_reach((agent.lanes if method == "stl" else agent).actor.shared)
    run = RunFolder.create(folder, to_dict(config), {"protocol": {"success": "any step"}})
    run.save_checkpoint(40, {"agent": agent.state()}, {})
    assert evaluate.main([str(folder), "--goals", "6", "--workers", "0", "--export"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Evaluated on six goals, with export."""
    return make_run(tmp_path_factory.mktemp("ls") / "run", "ls")


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_folder_beside_a_policy_is_no_link(run, tmp_path, capsys):
    policy = next(shutil.copytree(run / "policies", tmp_path / "policies").glob("*seed0.json"))
    policy.with_name(f"{policy.stem}-evaluation").symlink_to(tmp_path)
    assert evaluate.main([str(policy), "--goals", "1", "--workers", "0"]) == 2
    assert "-evaluation is a symbolic link" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["policies"]


def test_every_episode_has_a_row_and_a_mark(run):
    rows = table(run / "goals.csv")
    assert [(row["seed"], row["task"], row["goal"]) for row in rows] == [
        (seed, task, goal) for seed in "01" for task in TASKS for goal in "012345"
    ]
    for row in rows:
        assert row["env_steps"] == "40" and (
            int(row["steps_until_success"]) < 36 or row["success"] == "0"
        )
        assert 0.3 < float(row["goal_y"]) < 1.0 and abs(float(row["object_1_x"])) < 0.5
    for mean in table(run / "evaluation-40-6-goals.csv"):
        same = [row for row in rows if (row["seed"], row["task"]) == (mean["seed"], mean["task"])]
        assert len({row["goal_x"] for row in same}) == 6, "six different goals"
        for key in ("success", "return", "return_until_success"):
            assert float(mean[key]) == pytest.approx(np.mean([float(row[key]) for row in same]))
    assert (run / "goals.png").stat().st_size > 10_000


def assert_repeats(run, folder, seed, ending, capsys):
    capsys.readouterr()
    policy = run / "policies" / f"policy-40-seed{seed}{ending}"
    assert evaluate.main([str(policy), "--goals", "6", "--workers", "0", "--out", str(folder)]) == 0
    assert "repeated exactly" in capsys.readouterr().out
    mine, runs = (
        table(folder / "goals.csv"),
        [r for r in table(run / "goals.csv") if r["seed"] == str(seed)],
    )
    assert {row["success"] for row in runs} == {"0", "1"}, "some goals are reached and some are not"
    for one, other in zip(mine, runs, strict=True):
        assert all(
            one[key] == other[key]
            for key in ("task", "goal", "success", "steps_until_success", "goal_x")
        )
        assert one["return"] == other["return"]


@pytest.mark.parametrize(("seed", "ending"), [(0, ".json"), (1, ".pt2")])
def test_an_exported_policy_repeats_the_run(run, seed, ending, tmp_path, capsys):
    assert_repeats(run, tmp_path, seed, ending, capsys)


def test_an_exported_policy_of_single_tasks_repeats_the_run(tmp_path, capsys):
    assert_repeats(make_run(tmp_path / "run", "stl"), tmp_path / "again", 1, ".json", capsys)


EXAMPLE = """
import json, pathlib, runpy, numpy
example, path = runpy.run_path(sys.argv[1]), pathlib.Path(sys.argv[2])
description = json.loads(path.read_text())
program = example["load"](path, description)
observations = numpy.load("observations.npy")
actions = [example["act"](program, description, k, observations[k]) for k in range(2)]
print(json.dumps([action.tolist() for action in actions]))
example["main"]([str(path), "--goals", "6", "--tasks", "reach-v3"])
"""


def test_the_example_script_acts_like_the_agent_without_this_project(run, tmp_path):
    """On Meta-World's own observations; then it plays, and says how often it succeeded."""
    observations = np.random.default_rng(0).normal(size=(2, 39))
    np.save(tmp_path / "observations.npy", observations)
    path = run / "policies" / "policy-40-seed1.json"
    actions, played, _ = run_alone(EXAMPLE, tmp_path, SCRIPT, path).splitlines()
    folder = RunFolder.open(run)
    config = from_hydra(OmegaConf.create(folder.config))
    agent, _ = load_agent(folder, config, tuple(TASKS), None)
    given = torch.zeros(2, 2, 41)
    given[1] = torch.from_numpy(np.concatenate([observations, np.eye(2)], axis=1))
    torch.testing.assert_close(
        torch.tensor(json.loads(actions)), agent.act(given)[1], rtol=0, atol=1e-6
    )
    stated = json.loads(path.read_text())["result"]["success"]["reach-v3"]
    assert 0 < stated < 1
    assert played.split() == ["reach-v3", f"{stated:.2f}", "(stated:", f"{stated:.2f})"]


def test_a_number_that_is_not_repeated_is_told(capsys):
    stated = {"goals": 4, "success": {"a": 0.5, "b": 1.0}, "mean": 0.75}
    compare(stated, {"goals": 4, "success": {"a": 0.5, "b": 0.75}, "mean": 0.625})
    compare(stated, {"goals": 2, "success": {"a": 0.5, "b": 1.0}, "mean": 0.75})
    first, second = capsys.readouterr().out.splitlines()
    assert first == "its file records 0.750 over 4 goals per task: NOT repeated, it records b 1.00"
    assert (
        second
        == "its file records 0.750 over 4 goals per task: another number of goals, so not compared"
    )


# ---- films ----


def test_a_film_of_the_chosen_task_and_goal(run, monkeypatch):
    """In the run's folder, where a report finds it: as many frames as steps and one, showing the
    arm move.
    """
    iio = pytest.importorskip("imageio.v3", reason="the `video` extra is not installed")
    # Drawn in software, a frame of 480 × 480 takes 0.2 s.
    monkeypatch.setattr("mtrl_fairgrad.envs.rendering.SIDE", 160)
    before = dict(os.environ)
    try:
        find_gl_backend()
    except RenderingError as error:
        pytest.skip(str(error))
    [reached, *_] = [
        row
        for row in table(run / "goals.csv")
        if row["success"] == "1" and row["task"] == "reach-v3"
    ]
    arguments = [
        "--goals",
        "1",
        "--workers",
        "0",
        "--seed",
        reached["seed"],
        "--out",
        str(run / "again"),
    ]
    more = ["--video", "--video-goal", reached["goal"], "--video-tasks", "reach-v3", "--pictures"]
    assert evaluate.main([str(run), *arguments, *more]) == 0
    [row] = table(run / "again" / "films" / "films.csv")
    assert row["file"] == f"reach-v3-seed{reached['seed']}-goal{reached['goal']}.mp4"
    assert (row["task"], row["env_steps"], row["success"], row["frames"]) == (
        "reach-v3",
        "40",
        "1",
        "37",
    )
    film = iio.imread(run / "again" / "films" / row["file"])
    assert film.shape == (37, 160, 160, 3)
    assert film[0].std() > 20, "not an empty picture"
    moved = np.abs(film[-1].astype(int) - film[0]).max(-1) > 60
    assert 0.002 < moved.mean() < 0.2, "the arm, and nothing but the arm"
    drawn = {path.name: Image.open(path) for path in (run / "again" / "pictures").iterdir()}
    assert drawn["tasks.webp"].n_frames == 10 and drawn["reach-v3.webp"].n_frames == 1
    first, *_, last = np.array_split(np.asarray(drawn["reach-v3.webp"].convert("L")), 6, axis=1)
    assert first.std() > 20 and not np.array_equal(first, last)
    assert dict(os.environ) == before


def test_a_film_shows_what_the_policy_does():
    """Each seed and task is asked in its own place, with the goal and identity of its own."""
    asked = []

    def act(observations):
        asked.append(observations.clone())
        return torch.arange(12.0).view(2, 2, 3) if observations.shape[:2] == (2, 2) else None

    policy = _policy_of_one_task(act, 1, 0, (2, 2))
    assert policy(np.array([5.0, 6.0], np.float32)).tolist() == [6.0, 7.0, 8.0]
    assert asked[0].tolist() == [[[0, 0], [0, 0]], [[5, 6], [0, 0]]]


@pytest.mark.parametrize("option", ["--video", "--pictures"])
def test_no_film_is_promised_where_nothing_can_be_drawn(run, option, monkeypatch, capsys):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    assert evaluate.main([str(run), option, "--goals", "1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: {option}: rendering does not work here (nonsense: RuntimeError:"
    )
    assert "MUJOCO_GL=egl with" in said and "libosmesa6" in said


# ---- mistakes ----


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seed", "0"], "--seed 0 has no effect without a video or export"),
        (["--seed", "5", "--export"], "--seed 5 is not in this run: choose from 0, 1."),
        (["--video-goal", "3"], "--video-goal 3 has no effect without a video: add --video."),
        (
            ["--video", "--video-goal", "50"],
            "--video-goal 50 is out of range: a task has goals 0 to 49.",
        ),
        (
            ["--video", "--video-tasks", "push-v3"],
            "push-v3 is not in this run: choose from reach-v3, drawer-close-v3.",
        ),
        (["--out", "{file}"], "cannot be made"),
        (["--pictures", "{file}/pictures"], "cannot be made"),
        (["--export", "{file}/policies"], "cannot be made"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_simulated(
    run, arguments, said, capsys, monkeypatch
):
    monkeypatch.setattr(
        "mtrl_fairgrad.envs.evaluation.evaluate", lambda *_: pytest.fail("simulated")
    )
    assert (
        evaluate.main([str(run), *(word.format(file=run / "config.yaml") for word in arguments)])
        == 2
    )
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--step", "40"], ["--export"]])
def test_an_exported_policy_refuses_what_only_a_run_can(run, arguments, capsys):
    assert evaluate.main([str(run / "policies" / "policy-40-seed0.json"), *arguments]) == 2
    assert f"{arguments[0]} is for run folders" in capsys.readouterr().err


def test_a_policy_that_is_not_there_is_told(tmp_path, capsys):
    assert evaluate.main([str(tmp_path / "policy.json")]) == 2
    assert "policy.json cannot be read (No such file or directory)" in capsys.readouterr().err


def test_a_single_seed_is_exported_alone(run, tmp_path):
    arguments = [
        "--goals",
        "1",
        "--workers",
        "0",
        "--out",
        str(tmp_path),
        "--seed",
        "1",
        "--export",
    ]
    assert evaluate.main([str(run), *arguments]) == 0
    names = sorted(path.name for path in (tmp_path / "policies").iterdir())
    assert names == ["README.md", "policy-40-seed1.json", "policy-40-seed1.pt2"]
