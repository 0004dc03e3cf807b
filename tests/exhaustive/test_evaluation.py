"""Meta-World's scripted experts reach its success rates on MT10."""

from mtrl_fairgrad.envs.evaluation import (
    all_goals,
)
from mtrl_fairgrad.envs.task_names import MT10
from tests.support.scripted_experts import SEED, SUITE, assert_agrees_with_metaworld


def test_scripted_experts_get_metaworlds_success_rates_on_mt10():
    # Metaworld's own loop takes a second and a half for each goal
    goals = all_goals(SUITE, [SEED])[..., ::4]
    mine = assert_agrees_with_metaworld(MT10, goals, horizon=500, workers=2)
    assert mine.success.mean() > 0.9
