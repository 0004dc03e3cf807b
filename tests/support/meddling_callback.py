"""A callback that keeps all events, and does its worst to the run meanwhile."""

import random

import numpy as np
import torch


class MeddlingCallback:
    """Keeps all events, and does its worst to the run meanwhile."""

    def __init__(self):
        self.events = {"step": [], "update": [], "evaluation": [], "checkpoint": []}

    def _meddle(self, kind, event):
        self.events[kind].append(event)
        for array in [*vars(event).values(), *getattr(event, "metrics", {}).values()]:
            if isinstance(array, np.ndarray):
                assert not array.flags.writeable
                array.flags.writeable = True
                array[...] = array.dtype.type(77)
        random.seed(1), np.random.seed(2), torch.manual_seed(3)
        random.random(), np.random.rand(5), torch.rand(5)

    def on_step(self, event):
        self._meddle("step", event)

    def on_update(self, event):
        self._meddle("update", event)

    def on_evaluation(self, event):
        self._meddle("evaluation", event)

    def on_checkpoint(self, event):
        self._meddle("checkpoint", event)
