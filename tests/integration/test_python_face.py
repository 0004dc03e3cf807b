"""Training from Python: the same runs as from the command line, and what a program sees of them."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

import mtrl_fairgrad
from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError
from mtrl_fairgrad.utils.validation import ConfigError
from tests.support.errors import refused
from tests.support.meddling_callback import MeddlingCallback
from tests.support.paths import ROOT
from tests.support.tiny_runs import (
    POINT_MASS,
    POINT_MASS_ONE,
    POINT_MASS_TASKS,
    assert_same_checkpoint,
    checkpoint_steps,
    composed,
)

NEAR, FAR = POINT_MASS_TASKS
COPIES = ["env.copies=2", "seeds=[0,1]"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of the command line, and the same one from Python with callbacks that meddle."""
    folder = tmp_path_factory.mktemp("runs")
    words = [*POINT_MASS, *COPIES, "method.solver=newton"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtrl_fairgrad.train.finish", lambda folder: 0)
        assert mtrl_fairgrad.train.main([*words, f"run_dir={folder / 'command'}"]) == 0
        reported, recorder = [], MeddlingCallback()
        patch.setattr(mtrl_fairgrad.Run, "report", lambda self: reported.append(self.path))
        run = mtrl_fairgrad.train(*words, run_dir=folder / "python", callbacks=[recorder])
    assert reported == [run.path]
    return folder / "command", run, recorder


def test_a_run_is_the_same_bit_for_bit_whatever_callbacks_do(runs):
    command, run, recorder = runs
    assert all(recorder.events.values())
    assert_same_checkpoint(command, run.path)
    assert (command / "evaluations.csv").read_bytes() == (run.path / "evaluations.csv").read_bytes()
    one, two = (yaml.safe_load((path / "config.yaml").read_text()) for path in (command, run.path))
    assert {**one, "run_dir": 0} == {**two, "run_dir": 0}


def test_events_hold_what_happened(runs):
    _, run, recorder = runs
    steps = recorder.events["step"]
    assert [event.env_steps for event in steps] == list(range(2, 101, 2))
    assert steps[-1].rewards.shape == (2, 2, 2) and steps[-1].tasks == (NEAR, FAR)
    assert steps[-1].observations.shape[:3] == steps[-1].next_observations.shape[:3] == (2, 2, 2)
    updates = recorder.events["update"]
    assert updates[-1].env_steps == 100 and updates[-1].updates > updates[0].updates > 0
    assert updates[-1].metrics["critic/loss"].shape == (2, 2)
    assert updates[-1].metrics["critic/gramian"].shape == (2, 2, 2)
    evaluations = recorder.events["evaluation"]
    assert [event.env_steps for event in evaluations] == sorted(set(run.evaluations["env_steps"]))
    assert evaluations[-1].success.shape == (2, 2) and evaluations[-1].episodes == 50
    last = recorder.events["checkpoint"][-1]
    assert last.env_steps == 100 and last.path in RunFolder.open(run.path).checkpoints()
    assert {event.run_dir for events in recorder.events.values() for event in events} == {run.path}


def test_a_run_shows_its_results(runs):
    _, run, _ = runs
    table = run.evaluations
    assert table.columns[:5] == ("env_steps", "seed", "task", "episodes", "success")
    assert set(table["task"]) == {NEAR, FAR} and set(table["seed"]) == {0, 1}
    last = table.where(env_steps=100)
    assert len(last) == 4 and run.success == last["success"].mean()
    assert run.tasks == (NEAR, FAR) and run.seeds == (0, 1)
    assert run.config.env.copies == 2 and isinstance(run.config, Config)
    assert eval(repr(run), {"Run": mtrl_fairgrad.Run}).path == run.path


def test_a_run_reports_where_it_is_told(runs, tmp_path):
    folder = runs[1].report(markdown=tmp_path / "tables.md", until=40)
    assert folder == runs[1].path and (folder / "report.csv").is_file()
    assert "Near" in (tmp_path / "tables.md").read_text()
    for until in ("x", -1, 1.5):
        with refused("until", until):
            runs[1].report(until=until)


def test_a_policy_acts_as_in_the_run(runs):
    _, run, _ = runs
    policies = run.policies
    policy, other = policies[1], mtrl_fairgrad.load_policy(run.path)
    assert list(policies) == [0, 1] and other.seed == 0 and policy.env_steps == 100
    size = policy.observation_size
    rows = np.random.default_rng(0).normal(size=(3, size - 2)).astype(np.float32)
    complete = np.concatenate([rows, np.tile([0, 1], (3, 1))], axis=1)
    actions = policy(rows, task=FAR)
    assert actions.shape == (3, policy.action_size) and actions.dtype == np.float32
    assert np.array_equal(policy(complete), actions), "the identity says which task it is"
    assert np.allclose(policy(rows[1], task=FAR), actions[1], atol=1e-6)
    assert not np.allclose(policy(rows, task=NEAR), actions)
    assert not np.allclose(other(rows, task=FAR), actions)
    agent, _ = _agent(run)
    expected = agent.act(torch.from_numpy(complete).float().expand(2, 2, 3, -1))[1, 1]
    assert np.allclose(actions, expected.numpy(), atol=1e-6)


def test_each_row_may_be_of_a_task_of_its_own(runs):
    policy = runs[1].policies[0]
    rows = np.ones((2, policy.observation_size - 2))
    both = policy(rows, task=[FAR, NEAR])
    assert np.allclose(both, [policy(rows[0], task=FAR), policy(rows[1], task=NEAR)], atol=1e-6)
    with refused("task", [FAR]):
        policy(rows, task=[FAR])


def _agent(run):
    from mtrl_fairgrad.evaluation.target import load_agent

    return load_agent(RunFolder.open(run.path), run.config, run.tasks, None)


def test_an_exported_policy_is_the_run_s(runs, tmp_path):
    _, run, _ = runs
    paths = run.export(tmp_path, goals=1)
    assert [path.name for path in paths] == [f"policy-100-seed{seed}.json" for seed in (0, 1)]
    for goals in ("all", 0, 2.5):
        with refused("goals", goals):
            run.export(tmp_path, goals=goals)
    policy = mtrl_fairgrad.load_policy(paths[1])
    observation = np.ones(policy.observation_size - 2)
    expected = run.policies[1](observation, task=NEAR)
    assert np.allclose(policy(observation, task=NEAR), expected, atol=1e-6)
    assert policy.tasks == (NEAR, FAR) and policy.seed == 1 and policy.env_steps == 100


def test_a_policy_refuses_what_it_cannot_act_on(runs):
    _, run, _ = runs
    policy = mtrl_fairgrad.load_policy(run.path)
    with refused("task", "fra"):
        policy(np.zeros(policy.observation_size - 2), task="fra")
    with refused("task", None):
        policy(np.zeros(policy.observation_size - 2))
    with refused("task", 0):
        policy(np.zeros(policy.observation_size - 2), task=0)
    with refused("observation", (3,)):
        policy(np.zeros(3), task=NEAR)
    of_far = [*np.zeros(policy.observation_size - 2), 0, 1]
    assert np.array_equal(policy(of_far, task=FAR), policy(of_far))
    for observation, task in [(of_far, NEAR), (np.zeros(policy.observation_size), None)]:
        with refused("observation"):
            policy(observation, task=task)
    assert policy(np.zeros((0, policy.observation_size - 2)), task=NEAR).shape == (0, 1)
    with refused("seed", 7):
        mtrl_fairgrad.load_policy(run.path, seed=7)


def test_a_run_goes_on_from_python(runs, tmp_path, no_reports):
    _, run, _ = runs
    RunFolder.open(run.path)
    subprocess.run(["cp", "-r", str(run.path), str(tmp_path / "copy")], check=True)
    longer = mtrl_fairgrad.Run(tmp_path / "copy").resume(steps=140)
    assert longer.evaluations["env_steps"].max() == 140 and longer.config.steps == 140


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_program_s_settings_of_pytorch_are_put_back(tmp_path, no_reports, float64):
    def settings():
        deterministic = torch.are_deterministic_algorithms_enabled()
        return torch.get_num_threads(), deterministic, torch.get_default_dtype()

    before, during = settings(), []

    class Spy:
        def on_step(self, event):
            during.append(settings())

    words = [*POINT_MASS, *POINT_MASS_ONE, "steps=20", "threads=2", "deterministic=true"]
    mtrl_fairgrad.train(*words, run_dir=tmp_path / "run", callbacks=[Spy()])
    assert settings() == before and during[-1] == (2, True, torch.float32)


def test_a_configuration_object_trains(tmp_path, no_reports):
    config = composed(*POINT_MASS, *POINT_MASS_ONE, "steps=30", "eval.every=30")
    run = mtrl_fairgrad.train(config, run_dir=tmp_path / "run", seeds=4)
    assert run.config.agent == config.agent and run.seeds == (4,)
    # The stored words compose to the same run, so that it can be resumed.
    assert run.resume(steps=40).evaluations["env_steps"].max() == 40


def test_a_finished_run_is_left_as_it_is(runs, no_reports):
    _, run, recorder = runs
    steps = len(recorder.events["step"])
    words = [*POINT_MASS, *COPIES, "method.solver=newton"]
    again = mtrl_fairgrad.train(*words, run_dir=run.path, resume="auto", callbacks=[recorder])
    assert again.path == run.path and len(recorder.events["step"]) == steps


def test_mistakes_are_exceptions_before_anything_is_made(tmp_path):
    path = tmp_path / "run"
    with refused("agent.width", 0):
        mtrl_fairgrad.train(*POINT_MASS, "agent.width=0", run_dir=path)
    with pytest.raises(ConfigError):
        mtrl_fairgrad.train(*POINT_MASS, alhpa=2, run_dir=path)
    nothing, callback = object(), MeddlingCallback()
    for callbacks, value in [([nothing], nothing), (callback, callback), (None, None)]:
        with refused("callbacks", value):
            mtrl_fairgrad.train(*POINT_MASS, run_dir=path, callbacks=callbacks)
    with refused("callbacks", MeddlingCallback):  # not an object of the class
        mtrl_fairgrad.train(*POINT_MASS, run_dir=path, callbacks=[MeddlingCallback])
    with refused("run_dir", f"{path}${{a}}"):  # its configuration would not be read again
        mtrl_fairgrad.train(*POINT_MASS, run_dir=f"{path}${{a}}")
    with refused("overrides", {"env": "mt10"}):
        mtrl_fairgrad.train({"env": "mt10"}, run_dir=path)
    assert not path.exists()


def test_an_exception_of_a_callback_ends_a_run_that_can_be_resumed(tmp_path, no_reports):
    error = FileNotFoundError(2, "missing", "a file of its own")  # not one of the run
    refusals = []

    class Impatient:
        def on_step(self, event):
            if event.env_steps == 50:
                with pytest.raises(RunFolderError) as caught:
                    mtrl_fairgrad.Run(event.run_dir).resume()
                refusals.append(str(caught.value))
                raise error

    short = [*POINT_MASS, *POINT_MASS_ONE, "steps=60", "logger=csv"]
    with pytest.raises(FileNotFoundError) as caught:
        mtrl_fairgrad.train(*short, run_dir=tmp_path / "run", callbacks=[Impatient()])
    assert caught.value is error and str(tmp_path / "run") in error.__notes__[0]
    assert "this process is training" in refusals[0]
    run = mtrl_fairgrad.Run(tmp_path / "run").resume()
    assert run.evaluations["env_steps"].max() == 60
    logged = [line.split(",")[:2] for line in (run.path / "scalars.csv").read_text().splitlines()]
    assert ["60", "success_mean/mean"] in logged, "the log goes on"
    assert len(set(map(tuple, logged))) == len(logged), "and nothing in it is doubled"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        pytest.param(signal.SIGTERM, SystemExit, marks=pytest.mark.exhaustive),
    ],
)
def test_a_signal_is_raised_after_the_checkpoint(number, kind, tmp_path):
    class Stopper:
        def on_step(self, event):
            if event.env_steps == 50:
                os.kill(os.getpid(), number)

    words = [*POINT_MASS, *POINT_MASS_ONE]
    with pytest.raises(kind):
        mtrl_fairgrad.train(*words, run_dir=tmp_path / "run", callbacks=[Stopper()])
    assert checkpoint_steps(tmp_path / "run")[0] == 50


@pytest.mark.parametrize("first", ["mtrl_fairgrad", "mtrl_fairgrad.search"])
def test_the_module_train_can_be_called_whatever_was_imported_before(first):
    code = (
        f"import {first}, sys\n"
        "from mtrl_fairgrad import train\n"
        "import mtrl_fairgrad\n"
        "assert callable(train) and train is mtrl_fairgrad.train and callable(train.main)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
