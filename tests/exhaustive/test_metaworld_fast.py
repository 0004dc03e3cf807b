"""Every task's fast simulator equals the official one bit for bit."""

import pytest

from mtrl_fairgrad.envs.task_names import MT50
from tests.support.fast_simulators import compare, make


@pytest.mark.filterwarnings("ignore::UserWarning")  # experts ask for more than the largest action
@pytest.mark.parametrize("task", MT50)
def test_every_task_is_the_official_one_bit_for_bit(task):
    """`VERIFIED` depends on this test."""
    pair = make(task)
    for version in ("v2", "v1"):
        compare(pair, task, version, 70)
