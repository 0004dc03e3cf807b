"""The fast environments against Metaworld's own, to the last bit: numbers, their types, states,
random streams.
"""

import gc
import pickle
import warnings
import weakref

import mujoco
import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from mtrl_fairgrad.envs import metaworld_fast as fast
from mtrl_fairgrad.envs.metaworld import MetaworldSuite, MetaworldTask, official_goals
from mtrl_fairgrad.envs.metaworld_fast import arithmetic, reset_cache
from mtrl_fairgrad.envs.metaworld_fast.environment import fast_environment
from tests.support.fast_simulators import (
    answers,
    bits,
    compare,
    make,
)

TRICKY = {
    "push-v3": "v2",  # a rotation, contacts, the common caging reward
    "pick-place-v3": "v2",  # its own caging reward
    "peg-insert-side-v3": "v1",  # places of sites; medium density
    "door-open-v3": "v2",  # rewards in static methods
    "window-close-v3": "v2",  # the other sigmoid; derived data that is stale after a reset
    "stick-pull-v3": "v2",  # two objects
    "hammer-v3": "v1",  # two objects, a joint
    "basketball-v3": "v2",  # a goal that is a view into the data
    "assembly-v3": "v1",  # flags of the episode
}


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # experts ask for more than the largest action
        yield


@pytest.mark.parametrize(("task", "version"), TRICKY.items())
def test_is_the_official_environment_bit_for_bit(task, version):
    compare(make(task), task, version, 30)


def test_the_previous_step_is_observed_as_it_was_before_it_was_clipped():
    official, quick, goals = make("reach-v3")
    for each in (official, quick):
        each.set_task(goals[0])
        each.reset()
        each.sawyer_observation_space.high[:3] = 0.5
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32):
        expected = official.step(action)
        assert answers(*expected) == answers(*quick.step(action))
    assert expected[0][1] == 0.5 and expected[0][19] > 0.55


def test_the_installed_versions_are_verified():
    assert fast.reason_unverified() is None and MetaworldSuite().warnings() == []
    assert isinstance(task_of(MetaworldSuite()), ALL_V3_ENVIRONMENTS["reach-v3"])
    assert type(task_of(MetaworldSuite())) is fast_environment("reach-v3")


def task_of(suite):
    return MetaworldTask("reach-v3", 0, 0, suite, "train").environment


@pytest.mark.parametrize("package", ["metaworld", "mujoco"])
def test_other_versions_get_the_official_code_and_a_remark(package, monkeypatch):
    monkeypatch.setattr(fast, "version", lambda name: "9.8.7" if name == package else "3.1.1")
    [remark] = MetaworldSuite().warnings()
    assert (
        "9.8.7" in remark
        and "Metaworld 3.1.1 with MuJoCo 3.3.0 only" in remark
        and "\n" not in remark
    )
    assert type(task_of(MetaworldSuite())) is ALL_V3_ENVIRONMENTS["reach-v3"]
    assert MetaworldSuite(fast=False).warnings() == []


def test_arithmetic_that_differs_here_is_noticed(monkeypatch):
    right = arithmetic.QuickRotation.as_quat
    monkeypatch.setattr(
        arithmetic.QuickRotation, "as_quat", lambda self: np.nextafter(right(self), 2)
    )
    fast._agrees.cache_clear()
    assert "rotations differ" in MetaworldSuite().warnings()[0]
    monkeypatch.undo()
    fast._agrees.cache_clear()
    assert fast.reason_unverified() is None


def test_official_environments_on_request_with_states_that_fit_both():
    slow, quick = MetaworldSuite(fast=False), MetaworldSuite()
    assert type(task_of(slow)) is ALL_V3_ENVIRONMENTS["reach-v3"]
    assert slow.fingerprint() == quick.fingerprint()


def test_official_modules_stay_what_they_are():
    fast_environment("push-v3")
    names = vars(__import__("sys").modules[ALL_V3_ENVIRONMENTS["push-v3"].__module__])
    assert (
        names["np"] is np
        and names["reward_utils"].tolerance.__module__ == "metaworld.utils.reward_utils"
    )
    assert np.linalg.norm is not arithmetic.norm


def test_misuse_is_refused_like_officially():
    quick = fast_environment("reach-v3")()
    with pytest.raises(RuntimeError, match="must call env"):
        quick.step(np.zeros(4, np.float32))
    quick.set_task(official_goals(quick, "reach-v3", 0)[0])
    quick.reset()
    quick.curr_path_length = quick.max_path_length
    with pytest.raises(ValueError, match="must reset the env manually"):
        quick.step(np.zeros(4, np.float32))


def test_memory_of_resets_is_bounded_and_what_is_not_remembered_is_right(monkeypatch):
    monkeypatch.setattr(reset_cache, "CAPACITY", 1)
    official, quick, goals = make("drawer-open-v3")
    for goal in (0, 1, 0, 1):
        official.set_task(goals[goal])
        quick.set_task(pickle.loads(pickle.dumps(goals[goal])))
        assert bits(official.reset()[0]) == bits(quick.reset()[0])
    [entry] = quick._resets._entries.values()
    assert sum(array.nbytes for array in entry.arrays) < 50_000


def test_an_unused_environment_is_freed():
    """The views that it keeps hold its data, which the garbage collector cannot see by itself."""
    quick = fast_environment("reach-v3")()
    assert quick.data.body("obj").xpos.shape == (3,)
    data = weakref.ref(quick.data)
    del quick
    gc.collect()
    assert data() is None


@pytest.mark.parametrize("value", [0.0, 0.01, 0.3, -0.2, np.float64(0.07), np.nan, 5.0])
@pytest.mark.parametrize("sigmoid", ["long_tail", "gaussian", "linear"])
@pytest.mark.parametrize("margin", [0.0, 0.4, np.float64(1e-8), np.float32(0.3), 1e-200])
def test_tolerance(value, sigmoid, margin):
    from metaworld.utils import reward_utils

    arguments = (value, (0, 0.05), margin, sigmoid)
    with np.errstate(all="ignore"):
        assert bits(arithmetic.tolerance(*arguments)) == bits(reward_utils.tolerance(*arguments))


@pytest.mark.parametrize(
    "arguments", [(0.1, (1, 0)), (0.1, (0, 1), -0.5), (0.1, (0, 1), 1.0, "long_tail", 2.0)]
)
def test_tolerance_refuses_like_officially(arguments):
    with pytest.raises(ValueError):
        arithmetic.tolerance(*arguments)


def test_norms():
    vector = np.random.default_rng(0).normal(size=30)
    matrix = vector.reshape(5, 6)
    for each in (
        vector[:3],
        vector[::2],
        vector[:3].astype(np.float32),
        matrix,
        3,
        -0.3,
        np.float64(0.1),
        [3.0, 4.0],
    ):
        assert bits(arithmetic.norm(each)) == bits(np.linalg.norm(each))
    assert bits(arithmetic.norm(vector, ord=2)) == bits(np.linalg.norm(vector, ord=2))
    assert bits(arithmetic.norm(vector, 1)) == bits(np.linalg.norm(vector, 1))
    assert bits(arithmetic.norm(matrix, axis=1)) == bits(np.linalg.norm(matrix, axis=1))


def test_rotations():
    from scipy.spatial.transform import Rotation

    turned = [Rotation.from_rotvec(np.pi * axis).as_matrix() for axis in np.eye(3)]
    for matrix in [*Rotation.random(300, rng=1).as_matrix(), np.eye(3), *turned, 1.01 * np.eye(3)]:
        quick = arithmetic.QuickRotation.from_matrix(matrix).as_quat()
        assert bits(quick) == bits(Rotation.from_matrix(matrix).as_quat())
    with pytest.raises(ValueError):
        arithmetic.QuickRotation.from_matrix(-np.eye(3)).as_quat()


def test_named_parts_show_and_change_the_data():
    quick = fast_environment("reach-v3")()
    place = quick.data.site("goal")
    assert place is quick.data.site("goal") and isinstance(quick.data, mujoco.MjData)
    place.xpos = [1.0, 2.0, 3.0]
    assert quick.data.site_xpos[place.id].tolist() == place.xpos.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(KeyError):
        quick.data.body("no such body")
