"""The number of updates of each vector step and of a whole run."""

import itertools

import pytest

from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.training.update_schedule import updates_due, updates_of_run


def test_copies_make_fewer_vector_steps():
    agent = AgentConfig(warmup_steps=6, updates_per_step=2.5, warmup_updates=4)
    assert [updates_due(agent, step, copies=4) for step in range(0, 24, 4)] == [0, 0, 4, 3, 2, 3]


@pytest.mark.parametrize("copies", [1, 4])
def test_the_updates_of_a_run_are_the_sum_of_those_of_its_steps(copies):
    for warmup, ratio, first, steps in itertools.product(
        [1, 4, 6], [0.3, 1.0, 2.5], [0, 2, 9], [1, 4, 6, 7, 8, 29]
    ):
        agent = AgentConfig(warmup_steps=warmup, updates_per_step=ratio, warmup_updates=first)
        due = sum(updates_due(agent, step, copies) for step in range(0, steps, copies))
        assert updates_of_run(agent, steps, copies) == due
