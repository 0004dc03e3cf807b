"""What the tests of run folders share."""

import errno
import multiprocessing
import os

import torch

from mtrl_fairgrad.runs.run_dir import Evaluation

CONFIG = {
    "env": {"name": "mt10", "tasks": ("reach-v3", "push-v3"), "one_hot": True, "task": None},
    "agent": {"learning_rate": 3e-4, "adam_epsilon": 1e-5, "name": "α"},
    "seeds": [0, 7],
}
GROUPS = {"agent": {"w": torch.arange(6.0).reshape(2, 3)}, "replay": {"r": torch.arange(4)}}


class Rows:
    """A buffer as `mtrl_fairgrad.runs.checkpoint.replay_segments` wants it."""

    def __init__(self, capacity, *shape):
        self.rows = torch.zeros(capacity, *shape)
        self.added = 0

    def add(self, *values):
        for value in values:
            self.rows[self.added % len(self.rows)] = value
            self.added += 1


fork = multiprocessing.get_context("fork")


def rows(env_steps, *tasks):
    return [
        Evaluation(env_steps, 0, task, 10, 0.1, -1 / 3) for task in tasks or ("reach-v3", "push-v3")
    ]


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and text.count(". ") == 0


class Fault:
    """Stands in for a call and fails like a full disk when it has been called `allowed` times."""

    def __init__(self, call, allowed):
        self.call, self.allowed = call, allowed

    def __get__(self, instance, owner=None):
        return lambda *args: self(instance, *args) if instance is not None else self(*args)

    def __call__(self, *args):
        self.allowed -= 1
        if self.allowed < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.call(*args)
