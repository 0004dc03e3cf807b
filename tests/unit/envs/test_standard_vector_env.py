"""`make_vec` behaves as Gymnasium's own vector environments do in their mode SAME_STEP."""

import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import (
    DictInfoToList,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
)

from mtrl_fairgrad.envs import MT10, MT50, StandardVectorEnv, make_vec
from mtrl_fairgrad.envs.gymnasium_suite import gymnasium_suite
from tests.support import official_metaworld as official
from tests.support.errors import refused
from tests.support.point_mass import PointMass
from tests.unit.envs.conftest import TASKS, make

HORIZON = 4
LIGHT = gymnasium_suite(
    ["tests.support.point_mass:Near-v0", "tests.support.point_mass:Far-v0"], horizon=HORIZON
)
"""Two tasks without MuJoCo."""


def made(**options):
    return make_vec(tasks=TASKS, **({"workers": 0, "horizon": HORIZON} | options))


@pytest.fixture(scope="module")
def envs():
    with made() as envs:
        yield envs


@pytest.fixture(scope="module")
def light():
    with StandardVectorEnv(LIGHT, workers=0) as envs:
        yield envs


def actions(steps, rows=2, size=4):
    return official.random_actions(steps, rows=rows)[..., :size]


def played(envs, steps, **reset):
    """Observations, rewards and goals from a reset on."""
    observations, infos = envs.reset(**reset)
    course = [(observations, infos["goal"])]
    for each in actions(steps, *envs.action_space.shape):
        observations, rewards, _, _, infos = envs.step(each)
        course.append((observations, rewards, infos["goal"]))
    return [array.tolist() for step in course for array in step]


# ---- which tasks ----


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("MT10", MT10),
        ("mt50", MT50),
        ("MT1-push-v3", ("push-v3",)),
        ("MT1-push", ("push-v3",)),
    ],
)
def test_a_name_stands_for_its_tasks(name, tasks):
    assert make_vec(name).tasks == tasks


def test_spaces_and_rows_follow_tasks_and_copies():
    envs = make_vec("MT10", copies=4, task_id="none")
    assert envs.num_envs == 40 and envs.observation_space.shape == (40, 39)
    assert make_vec("MT10").single_observation_space.shape == (49,)
    assert envs.single_action_space.shape == (4,) and envs.action_space.shape == (40, 4)


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({"name": "MT11"}, "name", "MT11"),
        ({"name": "MT1-reach-v4"}, "name", "MT1-reach-v4"),
        ({}, "name", None),
        ({"name": "MT10", "tasks": ["reach-v3"]}, "name", "MT10"),
        ({"tasks": ["reach"]}, "tasks", "reach"),
        ({"tasks": []}, "tasks", []),
        ({"name": "MT10", "copies": 3}, "copies", 3),
        ({"name": "MT10", "seed": -1}, "seed", -1),
        ({"name": "MT10", "horizon": 501}, "horizon", 501),
        ({"name": "MT10", "task_id": "index"}, "task_id", "index"),
        ({"name": "MT10", "goals": "fixed"}, "goals", "fixed"),
        ({"name": "MT10", "fast": "false"}, "fast", "false"),
        ({"name": "MT10", "stagger": 1}, "stagger", 1),
        ({"name": "MT10", "terminate_on_success": "no"}, "terminate_on_success", "no"),
    ],
)
def test_a_mistake_is_refused_before_a_simulator_is_built(options, key, value):
    with refused(key, value):
        make_vec(**options)


# ---- seeds ----


def test_a_seed_means_the_same_in_make_vec_and_in_reset(envs):
    steps = 2 * HORIZON + 1
    with made(seed=7) as others:
        expected = played(others, steps)
    assert played(envs, steps, seed=7) == expected
    assert played(envs, steps, seed=7) == expected  # again, from the beginning of its streams
    assert played(envs, steps, seed=8) != expected
    assert played(envs, steps, seed=7) == expected


def test_without_a_seed_a_reset_goes_on_with_the_next_goals(envs):
    first = [envs.reset(seed=7)[1]["goal"], *(envs.reset()[1]["goal"] for _ in range(3))]
    assert len({tuple(each) for each in first}) > 1
    again = [envs.reset(seed=7)[1]["goal"], *(envs.reset()[1]["goal"] for _ in range(3))]
    assert np.array_equal(first, again)


@pytest.mark.parametrize("seed", [-1, 1.5, [1, 2], 2**32])
def test_a_reset_refuses_what_is_not_one_seed(envs, seed):
    with refused("seed", seed):
        envs.reset(seed=seed)


def test_a_reset_refuses_options(envs):
    with refused("options"):
        envs.reset(options={"reset_mask": np.ones(2, np.bool_)})


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_workers_change_nothing(mode):
    options = {"copies": 2, "stagger": True, "autoreset_mode": mode}
    with (
        StandardVectorEnv(LIGHT, workers=2, **options) as spread,
        StandardVectorEnv(LIGHT, workers=0, **options) as inline,
    ):
        assert played(spread, 2 * HORIZON, seed=3) == played(inline, 2 * HORIZON, seed=3)


def test_its_numbers_are_those_of_the_trainers_environments(envs):
    with make(tasks=TASKS, seeds=(7,), horizon=HORIZON) as trainers:
        observations, infos = trainers.reset()
        course = [(observations, infos["goal"])]
        for each in actions(2 * HORIZON):
            observations, rewards, _, _, infos = trainers.step(each)
            course.append((observations, rewards, infos["goal"]))
    expected = [array.tolist() for step in course for array in step]
    assert played(envs, 2 * HORIZON, seed=7) == expected


# ---- Gymnasium's conventions ----


def shape(infos):
    """Names, types and lengths of infos, as far as they do not depend on the environment."""
    return {
        name: shape(value) if isinstance(value, dict) else (value.dtype, len(value))
        for name, value in infos.items()
    }


class Counter(PointMass):
    """Ends after four steps; its infos are those of `make_vec`."""

    def reset(self, **options):
        observation, _ = super().reset(**options)
        return observation.astype(np.float32), {"goal": 1}

    def step(self, action):
        observation, reward, *_ = super().step(np.zeros((1, 1), np.float32))
        ended, infos = self.steps == HORIZON, {"success": False, "goal": 1}
        if ended:
            infos |= {"success_once": False, "episode": {"r": 1.0, "l": HORIZON}}
        return observation.astype(np.float32), reward, False, ended, infos


def test_infos_have_the_form_that_gymnasium_gives_them(envs):
    gymnasiums = SyncVectorEnv(
        [Counter] * 2, autoreset_mode=AutoresetMode.SAME_STEP, observation_mode="different"
    )
    assert shape(envs.reset(seed=1)[1]) == shape(gymnasiums.reset(seed=1)[1])
    for _ in range(2 * HORIZON):
        mine, official = envs.step(envs.action_space.sample()), gymnasiums.step(np.zeros((2, 1, 1)))
        # Where an episode ends, Gymnasium's infos are those of the next one's reset.
        reset = {"success", "_success"} - official[4].keys()
        assert shape(official[4]) == {k: v for k, v in shape(mine[4]).items() if k not in reset}
        assert [array.dtype for array in mine[1:4]] == [array.dtype for array in official[1:4]]
    assert envs.metadata["autoreset_mode"] is gymnasiums.metadata["autoreset_mode"]


def test_final_obs_is_the_last_observation_of_the_episode_that_ended():
    with make(tasks=TASKS, seeds=(7,), horizon=HORIZON) as trainers, made(seed=7) as envs:
        trainers.reset(), envs.reset()
        for each in actions(HORIZON):
            expected, (*_, infos) = trainers.step(each)[4], envs.step(each)
    assert infos["final_obs"].dtype == object
    assert np.array_equal(np.stack(infos["final_obs"]), expected["final_obs"])
    final = infos["final_info"]
    assert np.array_equal(final["episode"]["r"], expected["episode"]["r"])
    assert final["episode"]["l"].tolist() == [HORIZON] * 2
    assert np.array_equal(final["success_once"], expected["episode"]["s"])


def test_final_info_is_of_the_rows_that_ended_alone():
    """With `stagger` the first copy's first episode has half the length."""
    with StandardVectorEnv(LIGHT, copies=2, workers=0, stagger=True) as envs:
        _, before = envs.reset(seed=2)
        for each in actions(HORIZON // 2, rows=4, size=1):
            *_, truncated, infos = envs.step(each)
    assert truncated.tolist() == [True, True, False, False]
    final = infos["final_info"]
    masks = [infos["_final_obs"], infos["_final_info"], final["_episode"], final["episode"]["_r"]]
    assert all(mask.tolist() == truncated.tolist() for mask in masks)
    assert infos["final_obs"][2] is None and infos["final_obs"][3] is None
    assert final["goal"][:2].tolist() == before["goal"][:2].tolist()
    assert final["episode"]["l"].tolist() == [2, 2, 0, 0]


def test_what_is_returned_may_be_written_to(light):
    _, infos = light.reset(seed=2)
    for each in actions(HORIZON, size=1):
        playing = infos["goal"].copy()
        infos["goal"][:] = -5
        *_, infos = light.step(each)
    assert np.array_equal(infos["final_info"]["goal"], playing)


def test_record_episode_statistics_agrees_with_final_info(light):
    recorded = RecordEpisodeStatistics(light)
    recorded.reset(seed=5)
    for episode in range(1, 4):
        for each in actions(HORIZON, size=1):
            *_, infos = recorded.step(each)
        assert infos["episode"]["l"].tolist() == [HORIZON] * 2
        assert np.allclose(infos["episode"]["r"], infos["final_info"]["episode"]["r"], rtol=1e-12)
        assert recorded.episode_count == 2 * episode


def test_wrappers_take_it_and_lists_of_infos_come_out(light):
    wrapped = DictInfoToList(NormalizeReward(RecordEpisodeStatistics(light)))
    _, infos = wrapped.reset(seed=5)
    assert [set(each) for each in infos] == [{"goal"}] * 2
    for each in actions(HORIZON, size=1):
        *_, infos = wrapped.step(each)
    assert infos[0]["final_info"]["episode"]["l"] == HORIZON
    assert infos[1]["final_obs"].shape == (4,) and infos[1]["episode"]["l"] == HORIZON


# ---- resets in the next step ----


def told_apart(envs, steps):
    """For each row what its episodes consist of: first observations, and the results of steps."""
    given, taken = actions(steps, rows=4, size=1), np.zeros(4, np.int64)
    courses = [[("begins", seen.tolist())] for seen in envs.reset()[0]]
    resting = np.zeros(4, np.bool_)  # rows whose episode ended in the last step
    for _ in range(steps):
        mine = np.array([given[taken[row], row] for row in range(4)])
        seen, rewards, terminated, truncated, infos = envs.step(mine)
        ended = terminated | truncated
        for row, course in enumerate(courses):
            if resting[row]:
                assert rewards[row] == 0 and not ended[row] and not infos["success"][row]
                course.append(("begins", seen[row].tolist()))
                continue
            finals = infos.get("final_obs", seen)
            last = finals[row] if ended[row] else seen[row]
            course.append((last.tolist(), rewards[row], infos["success"][row], ended[row]))
            if ended[row] and "final_obs" in infos:
                course.append(("begins", seen[row].tolist()))
        taken += ~resting
        resting = ended & ("final_obs" not in infos)
    return courses


def test_next_step_has_the_episodes_of_same_step_and_rests_before_each():
    options = {
        "copies": 2,
        "workers": 0,
        "stagger": True,
        "seed": 2,
    }  # so that rows end at different times
    with (
        StandardVectorEnv(LIGHT, **options) as same,
        StandardVectorEnv(LIGHT, **options, autoreset_mode=AutoresetMode.NEXT_STEP) as following,
    ):
        expected, courses = told_apart(same, 3 * HORIZON), told_apart(following, 3 * HORIZON)
        again = told_apart(following, HORIZON)  # a reset while rows rest
    for one, two in zip(courses, expected, strict=True):
        assert len(two) > len(one) > 2 * HORIZON and one == two[: len(one)]
    assert all(len(course) > HORIZON for course in again)


def test_next_step_has_the_infos_that_gymnasium_gives():
    envs = StandardVectorEnv(LIGHT, workers=0, autoreset_mode=AutoresetMode.NEXT_STEP)
    recorded = RecordEpisodeStatistics(NormalizeObservation(envs))
    recorded.reset(seed=1)
    for number in range(1, 2 * (HORIZON + 1)):
        seen, _, _, truncated, infos = recorded.step(envs.action_space.sample())
        assert truncated.all() == (number % (HORIZON + 1) == HORIZON)
        assert ("episode" in infos) == ("success_once" in infos) == truncated.all()
    assert np.abs(seen).max() < 20
    envs.close()


def test_another_mode_is_refused():
    with refused("autoreset_mode", AutoresetMode.DISABLED):
        made(autoreset_mode=AutoresetMode.DISABLED)


def test_calls_out_of_order_are_gymnasiums_errors():
    envs = made()
    with pytest.raises(ResetNeeded):
        envs.step(envs.action_space.sample())
    envs.close()
    envs.close()
    with pytest.raises(ClosedEnvironmentError):
        envs.reset()
    with pytest.raises(ClosedEnvironmentError):
        envs.step(envs.action_space.sample())
