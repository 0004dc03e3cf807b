"""Meta-World's fifty tasks: goals, and episodes in used environments."""

import numpy as np
import pytest

from mtrl_fairgrad.envs.metaworld import (
    MetaworldTask,
    official_goals,
)
from mtrl_fairgrad.envs.task_names import MT50
from tests.support import official_metaworld as official
from tests.support.metaworld_episodes import (
    BARE,
    check_a_saved_episode_leads_on_bit_for_bit,
    check_used_environment_starts_like_a_fresh_one,
)


@pytest.mark.parametrize("task", MT50)
def test_goals_are_those_of_mt1_for_every_task(task):
    made = MetaworldTask(task, 4_000_000_000, 0, BARE, "train")
    drawn = {4_000_000_000: made._goals, 0: official_goals(made.environment, task, 0)}
    for seed, goals in drawn.items():
        assert np.array_equal(
            official.rand_vecs(goals), official.rand_vecs(official.goals(task, seed))
        )


@pytest.mark.parametrize("task", MT50)
def test_used_environment_starts_like_a_fresh_one_for_every_task(task):
    check_used_environment_starts_like_a_fresh_one(task)


@pytest.mark.parametrize("task", MT50)
def test_a_saved_episode_leads_on_bit_for_bit_for_every_task(task):
    check_a_saved_episode_leads_on_bit_for_bit(task, longest=420)
