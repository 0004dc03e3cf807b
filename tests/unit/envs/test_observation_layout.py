"""The names of an observation's numbers, against Metaworld's simulators."""

import numpy as np
import pytest

from mtrl_fairgrad.envs.evaluation import evaluate
from mtrl_fairgrad.envs.metaworld import MetaworldVectorEnv, official_goals
from mtrl_fairgrad.envs.observation_layout import observation_parts


@pytest.mark.parametrize(
    ("size", "one_hot_size"), [(39, 0), (49, 10), (12, 0), (22, 10), (3, 0), (5, 2)]
)
def test_parts_have_no_gaps(size, one_hot_size):
    parts = observation_parts(size, one_hot_size)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == size
    assert all(
        part.stop - part.start == part.metaworld[1] - part.metaworld[0]
        for part in parts
        if part.metaworld
    )
    assert [part.name for part in parts if not part.metaworld] == (
        ["observation"] * (size - one_hot_size == 3) + ["task_one_hot"] * bool(one_hot_size)
    )


def test_the_2021_observation_is_a_choice_of_todays():
    chosen = [
        place for part in observation_parts(12, 0) for place in range(*part.metaworld or (0, 0))
    ]
    assert chosen == [0, 1, 2, 4, 5, 6, 11, 12, 13, 36, 37, 38]


@pytest.mark.parametrize("task", ["push-v3", "window-open-v3", "stick-pull-v3"])
def test_names_agree_with_metaworld(task):
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    environment = ALL_V3_ENVIRONMENTS[task]()
    environment.set_task(official_goals(environment, task, 0)[7])
    start, _ = environment.reset()
    later, *_ = environment.step(np.array([1.0, -1.0, 0.5, 1.0], np.float32))
    at = {part.name: slice(part.start, part.stop) for part in observation_parts(39, 0)}
    assert np.array_equal(later[at["goal"]], environment._target_pos)
    assert later[at["hand"]] == pytest.approx(environment.get_endeff_pos())
    assert later[at["object_1"]] == pytest.approx(environment._get_pos_objects()[:3])
    assert np.array_equal(later[at["previous_step"]], start[: at["object_2_quaternion"].stop])


def test_an_evaluation_tells_where_each_episode_started():
    tasks, seeds, goals = (
        ("reach-v3", "drawer-close-v3"),
        (3, 5),
        np.array([[[4, 0, 9], [1, 1, 7]], [[2, 8, 4], [0, 5, 6]]]),
    )
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    with MetaworldVectorEnv(tasks, seeds, 0, horizon=3, role="eval") as envs:
        starts = evaluate(
            envs, lambda observations: np.ones((len(observations), 4), np.float32), goals
        ).starts
    assert starts.shape == (2, 2, 3, 41) and starts.dtype == np.float32
    for s, seed in enumerate(seeds):
        for k, task in enumerate(tasks):
            environment = ALL_V3_ENVIRONMENTS[task]()
            official = official_goals(environment, task, seed)
            for e, goal in enumerate(goals[s, k]):
                environment.set_task(official[goal])
                expected, _ = environment.reset()
                assert np.array_equal(starts[s, k, e, :39], expected.astype(np.float32)), (
                    seed,
                    task,
                    goal,
                )
