"""The training loop: act, simulate while learning, store; between steps evaluate, save and stop."""

from __future__ import annotations

import time

from mtrl_fairgrad.training.signals import StopRequested
from mtrl_fairgrad.training.trainer import Trainer


def run(trainer: Trainer) -> None:
    """Train until the configured step, or until a requested stop has its checkpoint.

    Raises:
        TrainingFault: no seed can be trained any further.
        WorkerLost: a simulator worker was lost and may not be replaced.
    """
    try:
        while True:
            trainer.evaluate_if_due()
            trainer.save_if_due()
            if trainer.finished:
                return
            step(trainer)
    except StopRequested as stop:
        trainer.logger.log(str(stop))


def step(trainer: Trainer) -> None:
    """Take one step of all simulators; while they work, learn and advance the evaluation."""
    started = time.monotonic()
    actions = trainer.act()
    trainer.envs.step_async(actions)
    trainer.evaluator.advance()
    trainer.learner.learn(trainer.env_steps)
    if trainer.on_cpu:  # on another device the evaluation's actions would wait for the updates
        trainer.evaluator.advance()
    actions, transition = trainer.finish_step(actions)
    trainer.store(actions, transition)
    trainer.count_step(time.monotonic() - started)
    trainer.report_step(transition)
