"""Workers start whatever the default start method of this process is."""

import multiprocessing
from multiprocessing import context

import numpy as np

from mtrl_fairgrad.envs.gymnasium_suite import gymnasium_suite
from mtrl_fairgrad.envs.workers.host import Slot
from mtrl_fairgrad.envs.workers.pool import WorkerPool


def test_a_start_method_that_only_this_process_knows_is_not_handed_on(monkeypatch):
    """Joblib's processes have such a method, named loky."""

    class Own(context.SpawnContext):
        _name = "own"

    before = multiprocessing.get_start_method(allow_none=True)
    monkeypatch.setitem(context._concrete_contexts, "own", Own())
    multiprocessing.set_start_method("own", force=True)
    try:
        task = "tests.support.point_mass:Near-v0"
        pool = WorkerPool([[Slot(0, task, 0, 1)]], gymnasium_suite([task]), "train", 60.0)
        pool.start("reset")
        pool.finish()
        assert np.isfinite(pool.buffers.observations).all()
        pool.close()
        assert multiprocessing.get_start_method() == "own"
    finally:
        multiprocessing.set_start_method(before, force=True)
