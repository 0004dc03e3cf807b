"""Metaworld without us: plain environments and goals made by its own public functions."""

import functools
import pickle

import metaworld
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS


@functools.cache
def goals(task, seed):
    """The 50 official `Task`s of MT1."""
    return metaworld.MT1(task, seed=seed).train_tasks


def rand_vecs(tasks):
    return np.array([pickle.loads(each.data)["rand_vec"] for each in tasks])


def environment(task, seed, goal, reward_version="v2"):
    """A fresh environment with a goal set; not reset."""
    environment = ALL_V3_ENVIRONMENTS[task](reward_function_version=reward_version)
    environment.set_task(goals(task, seed)[goal])
    return environment


def random_actions(steps, rows=None, seed=0):
    """Uniform in [-1.2, 1.2], so that some are clipped; float32 [steps, (rows,) 4]."""
    shape = (steps, 4) if rows is None else (steps, rows, 4)
    return np.random.default_rng(seed).uniform(-1.2, 1.2, shape).astype(np.float32)
