import numpy as np
import pytest

from mtrl_fairgrad.envs.evaluation import (
    EvaluationRollout,
    all_goals,
    evaluate,
    evaluation_goals,
)
from mtrl_fairgrad.envs.metaworld import MetaworldSuite, MetaworldVectorEnv
from mtrl_fairgrad.envs.task_names import MT10
from tests.support.errors import refused
from tests.support.scripted_experts import (
    SEED,
    SUITE,
    assert_agrees_with_metaworld,
    experts,
)


def test_scripted_experts_get_metaworlds_success_rates():
    """With little time some goals are reached and some not, so that rates are neither 0 nor 1."""
    goals = np.array([[[4, 17, 23, 48, 9, 31], [0, 12, 49, 33, 20, 5]]])
    mine = assert_agrees_with_metaworld(
        ("reach-v3", "window-open-v3"), goals, horizon=62, workers=0
    )
    assert 0 < mine.success.mean() < 1


def test_episodes_are_filed_under_their_goals():
    """Each (seed, task, goal) gives what it gives when played alone, whatever is beside it."""
    goals = np.array([[[4, 9]], [[9, 31]]])
    policy = lambda observations: np.tanh(observations[:, [36, 37, 38, 0]] * 3)  # noqa: E731
    options = {
        "workers": 0,
        "horizon": 25,
        "one_hot": False,
        "role": "eval",
    }
    with MetaworldVectorEnv(["reach-v3"], [1, 2], **options) as envs:
        together = evaluate(envs, policy, goals)
        again = evaluate(envs, policy, goals)
    assert all(np.array_equal(*pair) for pair in zip(together, again, strict=True))
    assert len(np.unique(together.returns)) == 4
    for s, seed in enumerate([1, 2]):
        with MetaworldVectorEnv(["reach-v3"], [seed], **options) as envs:
            for e in range(2):
                assert (
                    evaluate(envs, policy, goals[s : s + 1, :, e : e + 1]).returns
                    == together.returns[s, 0, e]
                )


def test_played_step_by_step_it_finds_the_same(monkeypatch):
    goals, policy = np.array([[[4, 9, 31]]]), experts(["reach-v3"])
    with MetaworldVectorEnv(["reach-v3"], [SEED], 0, 30, role="eval") as envs:
        at_one_go = evaluate(envs, policy, goals)
        answers = []
        monkeypatch.setattr(
            envs, "ready", lambda: answers.append(len(answers) % 3 == 2) or answers[-1]
        )
        playing, moved = EvaluationRollout(envs, policy, goals), []
        while not playing.done:
            moved.append(playing.advance())
        assert moved == answers and sum(moved) == at_one_go.lengths.sum()
        assert not playing.advance(wait=True), "it is over"
    assert all(np.array_equal(*pair) for pair in zip(playing.result, at_one_go, strict=True))


def play(tasks, policy, goals, horizon, **options):
    with MetaworldVectorEnv(tasks, [SEED], 0, horizon, role="eval", **options) as envs:
        return evaluate(envs, policy, goals)


def test_ending_at_the_first_success_changes_nothing_that_is_recorded_until_then():
    tasks, goals = ["reach-v3", "window-open-v3"], np.array([[[4, 17, 23, 48], [0, 12, 49, 33]]])
    whole = play(tasks, experts(tasks), goals, 62)
    ended = play(tasks, experts(tasks), goals, 62, terminate_on_success=True)
    assert 0 < whole.success.mean() < 1
    for name in ("success", "returns_until_success", "lengths_until_success", "starts"):
        assert np.array_equal(getattr(whole, name), getattr(ended, name)), name
    assert np.array_equal(ended.lengths, whole.lengths_until_success)
    assert (whole.lengths == 62).all()
    assert np.isnan(ended.returns).all(), "never a part of it under the same name"
    reached = whole.success
    assert (whole.returns[reached] > whole.returns_until_success[reached]).all()
    assert np.array_equal(whole.returns[~reached], whole.returns_until_success[~reached])


def test_the_whole_return_is_the_sum_of_all_rewards():
    goals, policy = np.array([[[4]]]), experts(["reach-v3"])
    result = play(["reach-v3"], policy, goals, 80)
    rewards, successes = [], []
    with MetaworldVectorEnv(["reach-v3"], [SEED], 0, 80, role="eval") as envs:
        observations, _ = envs.reset(options={"goals": goals[0]})
        for _ in range(80):
            observations, reward, _, _, infos = envs.step(policy(observations))
            rewards.append(reward[0])
            successes.append(infos["success"][0])
    first = successes.index(True) + 1
    assert result.returns.item() == sum(rewards)
    assert result.returns_until_success.item() == sum(rewards[:first])
    assert result.lengths_until_success.item() == first < 80


def test_the_better_policy_has_the_higher_return():
    tasks, goals = ["reach-v3"], np.array([[[4, 9]]])
    good = play(tasks, experts(tasks), goals, 300)
    idle = play(tasks, lambda observations: np.zeros((1, 4), np.float32), goals, 300)
    assert good.success.all() and not idle.success.any()
    assert (good.returns > idle.returns).all()
    assert (good.returns_until_success < idle.returns_until_success).all(), (
        "up to its success, the better policy has less time to collect rewards"
    )


def test_evaluation_goals_are_distinct_and_depend_only_on_seed_task_and_steps():
    goals = evaluation_goals(SUITE, [0, 5], 10, env_steps=20_000)
    assert goals.shape == (2, 10, 10) and goals.min() >= 0 and goals.max() < 50
    assert all(len(set(row)) == 10 for row in goals.reshape(-1, 10).tolist())
    assert np.array_equal(
        evaluation_goals(MetaworldSuite(tasks=MT10[3:5]), [5], 10, 20_000)[0], goals[1, 3:5]
    )
    assert len({row.tobytes() for row in goals.reshape(-1, 10)}) == 20
    assert not np.array_equal(evaluation_goals(SUITE, [0, 5], 10, 30_000), goals)
    assert np.array_equal(evaluation_goals(SUITE, [0, 5], 4, 20_000), goals[..., :4])


def test_all_goals_and_fifty_episodes_play_each_goal_once():
    three = MetaworldSuite(tasks=MT10[:3])
    every = all_goals(three, [0, 1])
    assert every.shape == (2, 3, 50) and (np.sort(every) == np.arange(50)).all()
    drawn = evaluation_goals(three, [0, 1], 50, 0)
    assert np.array_equal(np.sort(drawn), every) and not np.array_equal(drawn, every)
    every[0, 0, 0] = 7  # an array of its own


def test_frozen_goals_are_the_only_ones():
    frozen = MetaworldSuite(goal_choice="frozen")
    every = all_goals(frozen, [0, 1])
    assert every.shape == (2, 10, 1) and np.array_equal(
        evaluation_goals(frozen, [0, 1], 1, 7), every
    )
    with refused("episodes", 2):
        evaluation_goals(frozen, [0], 2, 0)


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (([0], 0, 0), "episodes", 0),
        (([0], 51, 0), "episodes", 51),
        (([0], 2.5, 0), "episodes", 2.5),
        (([0], True, 0), "episodes", True),
        (([0], 5, -1), "env_steps", -1),
        (([0, 0], 5, 0), "seeds", [0, 0]),
    ],
)
def test_wrong_numbers_of_episodes(arguments, key, value):
    with refused(key, value):
        evaluation_goals(SUITE, *arguments)


def test_goals_must_fit_the_environments():
    with MetaworldVectorEnv(["reach-v3"], [0], 0, role="eval") as envs:
        for goals in (
            all_goals(envs.suite, [0, 1]),
            all_goals(MetaworldSuite(tasks=MT10[:2]), [0]),
            np.zeros((1, 1), int),
        ):
            with pytest.raises(
                ValueError, match="do not fit 1 seeds × 1 tasks: give \\[1, 1, E\\]"
            ):
                evaluate(envs, experts(["reach-v3"]), goals)
    with (
        MetaworldVectorEnv(["reach-v3"], [0], 0) as envs,
        pytest.raises(ValueError, match="make an environment with role='eval'"),
    ):
        evaluate(envs, experts(["reach-v3"]), all_goals(envs.suite, [0]))
