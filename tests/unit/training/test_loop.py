"""The order of a run: evaluate, save, stop, step; and within a step act, simulate, learn, store."""

import signal
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from mtrl_fairgrad.training import loop
from mtrl_fairgrad.training.progress import Progress
from mtrl_fairgrad.training.signals import StopController
from mtrl_fairgrad.training.trainer import Trainer


class Journal:
    """Records calls: an attribute of it is a function that notes its name."""

    def __init__(self, calls, **results):
        self._calls, self._results = calls, results

    def __getattr__(self, name):
        def call(*arguments, **options):
            self._calls.append(name)
            return self._results.get(name)

        return call


class Recorder(Trainer):
    """A trainer whose operations do nothing but note their names."""

    def act(self, half):
        self.calls.append(f"act {half}")

    def receive(self, half):
        self.calls.append(f"receive {half}")

    def report_step(self):
        self.calls.append("report")

    def checkpoint(self):
        self.calls.append("checkpoint")
        self.saved.append(self.env_steps)

    def check_faults(self):
        pass


def make(copies=1):
    calls, progress, messages = [], Progress(copies=copies), []
    evaluator = Journal(calls, due=False)
    evaluator.waited, evaluator.background, evaluator.running = 0.0, True, None
    learner = Journal(calls)
    learner.updates, learner.device = 0, SimpleNamespace(type="cpu")
    made = Recorder(
        config=SimpleNamespace(seeds=[0], steps=10, log_every=1),
        folder=None,
        progress=progress,
        stop=StopController(),
        envs=SimpleNamespace(tasks=["a"]),
        observations=[None] if copies == 1 else [None, None],
        learner=learner,
        evaluator=evaluator,
        logger=SimpleNamespace(log=messages.append, advance=lambda steps: None),
        fault_monitor=None,
        worker_restarts=None,
        resources=ExitStack(),
    )
    made.calls, made.saved, made.messages = calls, [], messages
    return made


@pytest.fixture
def trainer():
    return make()


def test_a_step_acts_then_learns_while_the_simulators_work_and_stores_after_them(trainer):
    loop.step(trainer)
    assert trainer.calls == ["act 0", "advance", "learn", "advance", "receive 0", "report"]
    assert trainer.env_steps == 1


def test_with_copies_one_half_simulates_while_the_policy_acts_for_the_other():
    trainer = make(copies=4)
    loop.step(trainer)
    assert trainer.calls == [
        *("act 0", "receive 1", "act 1"),
        *("advance", "learn", "advance", "receive 0", "report"),
    ]
    assert trainer.env_steps == 4
    loop.run(trainer)
    assert trainer.env_steps == 12 and trainer.finished


def test_on_another_device_the_evaluation_does_not_wait_for_the_updates(trainer):
    trainer.learner.device.type = "cuda"
    loop.step(trainer)
    assert trainer.calls.count("advance") == 1
    assert trainer.calls.index("advance") < trainer.calls.index("learn")


def test_a_checkpoint_follows_an_evaluation_at_once_and_at_the_end(trainer):
    trainer.evaluator.due = lambda env_steps: env_steps in (0, 3, 10)
    loop.run(trainer)
    assert trainer.saved == [0, 3, 10] and trainer.messages == []
    assert trainer.calls.count("learn") == 10


def stop_before(trainer, env_steps, monkeypatch):
    step = loop.step

    def stopping_step(trainer):
        if trainer.env_steps == env_steps:
            trainer.stop.request(signal.SIGTERM)
        step(trainer)

    monkeypatch.setattr(loop, "step", stopping_step)


def test_a_stop_is_announced_and_saved_at_the_end_of_the_step(trainer, monkeypatch):
    stop_before(trainer, 1, monkeypatch)
    loop.run(trainer)
    assert trainer.env_steps == 2 and trainer.saved == [2]
    announced, stopped = trainer.messages
    assert "saving a checkpoint" in announced and "env_steps 2" in stopped
    assert trainer.stop.exit_code == 128 + signal.SIGTERM


def test_no_evaluation_begins_after_a_stop_request(trainer):
    trainer.stop.request(signal.SIGINT)
    trainer.evaluate_if_due()
    assert "due" not in trainer.calls and "start" not in trainer.calls


def test_a_signal_while_a_checkpoint_is_saved_is_served_at_the_next_one(trainer, monkeypatch):
    trainer.evaluator.due = lambda env_steps: env_steps == 4
    checkpoint = trainer.checkpoint

    def interrupted():
        checkpoint()
        trainer.stop.request(signal.SIGTERM)

    monkeypatch.setattr(trainer, "checkpoint", interrupted)
    loop.run(trainer)
    assert trainer.saved == [4, 5]


def test_a_run_that_is_finished_takes_no_step(trainer):
    trainer.progress.env_steps = 10
    loop.run(trainer)
    assert "act 0" not in trainer.calls and trainer.saved == []
