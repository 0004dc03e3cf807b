"""Small environments that tests share."""

import pytest

from mtrl_fairgrad.envs.metaworld import MetaworldVectorEnv

TASKS, SEEDS, HORIZON = ("reach-v3", "drawer-close-v3"), (3, 5), 20


def make(workers=0, tasks=TASKS, seeds=SEEDS, horizon=HORIZON, **options):
    return MetaworldVectorEnv(tasks, seeds, workers, horizon, **options)


@pytest.fixture(scope="session")
def training():
    """Shared by tests that begin with a reset and do not mind which goals come."""
    with make() as envs:
        yield envs


@pytest.fixture(scope="session")
def evaluating():
    with make(role="eval") as envs:
        yield envs
