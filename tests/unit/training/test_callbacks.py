"""Callbacks: what they raise is kept apart from errors of training."""

import pytest

from mtrl_fairgrad.envs.workers.pool import WorkerError
from mtrl_fairgrad.training.callbacks import CallbackError, Callbacks


def test_what_a_callback_raises_is_not_an_error_of_training():
    error = WorkerError("of simulators of its own")

    class Failing:
        def on_evaluation(self, event):
            raise error

    with pytest.raises(CallbackError) as caught:
        Callbacks([Failing()]).call("on_evaluation", lambda: None)
    assert caught.value.error is error
