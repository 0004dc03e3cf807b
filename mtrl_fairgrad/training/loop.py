"""The training loop: act, simulate while learning, store; between steps evaluate, save and stop."""

from __future__ import annotations

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
    """Take one step of all simulators; while they work, learn and advance the evaluation.

    With copies, the simulators of each task are two halves: one simulates while the policy acts for
    the other, and at the end the second half's step is still running. With one copy there is one
    half.
    """
    trainer.act(0)
    for half in trainer.later_halves:
        trainer.receive(half)
        trainer.act(half)
    trainer.evaluator.advance()
    trainer.learner.learn(trainer.env_steps)
    if trainer.on_cpu:  # on another device the evaluation's actions would wait for the updates
        trainer.evaluator.advance()
    trainer.receive(0)
    trainer.count_step()
    trainer.report_step()
