"""Meta-World's scripted experts, and what Meta-World's own evaluation says of them."""

import functools

import gymnasium
import numpy as np
import pytest

from mtrl_fairgrad.envs.evaluation import (
    EvaluationResult,
    evaluate,
)
from mtrl_fairgrad.envs.metaworld import MetaworldSuite, MetaworldVectorEnv
from tests.support import official_metaworld as official

SEED = 1
SUITE = MetaworldSuite()


def experts(tasks):
    """Metaworld's scripted experts as one policy over rows of `tasks`."""
    from metaworld.policies import ENV_POLICY_MAP

    scripted = [ENV_POLICY_MAP[task]() for task in tasks]
    return lambda observations: np.array(
        [expert.get_action(each[:39]) for expert, each in zip(scripted, observations, strict=True)],
        np.float32,
    )


def metaworld_says(tasks, goals, horizon):
    """`metaworld.evaluation.evaluation` on the same goals: success rate and all returns of each
    task.
    """
    import metaworld
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.evaluation import evaluation

    class Agent:
        eval_action = staticmethod(experts(tasks))

        def reset(self, env_mask):
            pass

    makers = [
        functools.partial(
            metaworld._init_each_env,
            ALL_V3_ENVIRONMENTS[task],
            [official.goals(task, SEED)[goal] for goal in chosen],
            max_episode_steps=horizon,
            use_one_hot=True,
            env_id=number,
            num_tasks=len(tasks),
            # Goes through all of its goals before any comes again, in an order of its own.
            task_select="pseudorandom",
        )
        for number, (task, chosen) in enumerate(zip(tasks, goals, strict=True))
    ]
    envs = gymnasium.vector.SyncVectorEnv(
        makers, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
    )
    envs.call("toggle_sample_tasks_on_reset", True)
    _, _, rates, returns = evaluation(Agent(), envs, num_episodes=goals.shape[1])
    envs.close()
    return rates, returns


def assert_agrees_with_metaworld(tasks, goals, horizon, workers):
    with MetaworldVectorEnv(tasks, [SEED], workers, horizon, role="eval") as envs:
        mine = evaluate(envs, experts(tasks), goals)
    rates, returns = metaworld_says(tasks, goals[0], horizon)
    assert isinstance(mine, EvaluationResult) and mine.success.shape == goals.shape
    for k, task in enumerate(tasks):
        assert mine.success[0, k].mean() == pytest.approx(rates[task], abs=1e-12), task
        until_success = np.sort(mine.returns_until_success[0, k])
        assert until_success == pytest.approx(np.sort(returns[task]), rel=1e-5), task
    assert (mine.lengths == horizon).all() and mine.lengths_until_success.min() > 0
    assert (mine.lengths_until_success[~mine.success] == horizon).all()
    return mine
