"""Gymnasium's environments as tasks: what Gymnasium makes, whatever runs beside them, and where
they can be resumed.
"""

import json

import gymnasium
import numpy as np
import pytest

from mtrl_fairgrad.envs.evaluation import all_goals, evaluate, evaluation_goals
from mtrl_fairgrad.envs.gymnasium_suite import gymnasium_suite
from mtrl_fairgrad.envs.rendering import record_episode
from mtrl_fairgrad.envs.saved_state import from_arrays, to_arrays
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.envs.workers.pool import WorkerError
from tests.support.rollouts import assert_same, course, flatten, reread

POINT_MASS, NARROW = "tests.support.point_mass:PointMass-v0", {"edge": 0.7}
TASKS = {"tasks": [POINT_MASS, POINT_MASS], "options": [{}, NARROW]}
TASK_NAMES = (POINT_MASS, f"{POINT_MASS}(edge=0.7)")
LIMITED = {"tasks": [POINT_MASS, POINT_MASS], "options": [{"edge": 50.0}, NARROW]}
PENDULUMS = {
    "tasks": ["InvertedPendulum-v5", "InvertedPendulum-v5"],
    "options": [{}, {"reset_noise_scale": 0.1}],
}


def make(workers=0, seeds=(3, 5), role="train", **options):
    return TaskVectorEnv(gymnasium_suite(**{**TASKS, **options}), seeds, workers, role)


def actions(steps, rows=4, seed=0):
    return np.random.default_rng(seed).uniform(-1.2, 1.2, (steps, rows, 1)).astype(np.float32)


def test_names_are_ids_with_their_options_and_lead_back_to_them():
    suite = gymnasium_suite(**TASKS)
    assert suite.tasks == TASK_NAMES
    assert gymnasium_suite(TASK_NAMES, TASKS["options"]) == suite
    assert (suite.base_observation_size, suite.action_size, suite.observation_size) == (2, 1, 4)


@pytest.mark.parametrize("suite", [LIMITED, PENDULUMS], ids=["walk", "mujoco"])
def test_is_gymnasiums_environment_bit_for_bit(suite):
    """Also where episodes end at different times, each task's own time limit and true terminations
    among them.
    """
    with make(seeds=(3,), **suite) as envs:
        observations, infos = envs.reset()
        plain = [
            gymnasium.make(i, **o) for i, o in zip(suite["tasks"], suite["options"], strict=True)
        ]
        for row, each in enumerate(plain):
            first, _ = each.reset(seed=int(infos["goal"][row]))
            assert np.array_equal(observations[row, : first.size], first.astype(np.float32))
        assert observations[:, -2:].tolist() == [[1, 0], [0, 1]]
        ended, lasted = [], np.zeros(2)
        for step in actions(80, rows=2):
            observations, rewards, terminated, truncated, infos = envs.step(step)
            lasted += 1
            for row, each in enumerate(plain):
                low, high = (
                    bound.astype(float) for bound in (each.action_space.low, each.action_space.high)
                )
                action = (low + high) / 2 + (high - low) / 2 * step[row].clip(-1, 1)
                seen, reward, *ends, _ = each.step(action.astype(np.float32))
                assert np.array_equal(infos["final_obs"][row, : seen.size], seen.astype(np.float32))
                assert rewards[row] == reward
                assert [terminated[row], truncated[row]] == ends
                if any(ends):
                    assert infos["episode"]["l"][row] == lasted[row]
                    ended.append((row, *ends))
                    lasted[row] = 0
                    first, _ = each.reset(seed=int(infos["goal"][row]))
                    assert np.array_equal(observations[row, : first.size], first.astype(np.float32))
    assert {row for row, *_ in ended} == {0, 1} and any(terminal for _, terminal, _ in ended)
    assert suite is PENDULUMS or {(row, limit) for row, _, limit in ended} == {
        (0, True),
        (1, False),
    }


def test_any_number_of_workers_gives_the_same():
    with make() as inline, make(workers=2) as spread_out:
        assert np.array_equal(inline.reset()[0], spread_out.reset()[0])
        assert_same(course(inline, actions(70)), course(spread_out, actions(70)))


def test_streams_do_not_depend_on_neighbours():
    with (
        make(one_hot=False) as together,
        make(seeds=(5,), tasks=[POINT_MASS], options=[NARROW], one_hot=False) as alone,
    ):
        assert np.array_equal(together.reset()[0][3:], alone.reset()[0])
        for step in actions(70):
            many, single = course(together, [step])[0], course(alone, [step[3:]])[0]
            assert all(
                np.array_equal(many[name][3:], single[name])
                for name in many
                if "episode." not in name
            )
        goals = [all_goals(each.suite, each.seeds)[-1, -1] for each in (together, alone)]
        assert np.array_equal(*goals)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("suite", [LIMITED, PENDULUMS], ids=["walk", "mujoco"])
def test_a_state_inside_episodes_leads_on_bit_for_bit(suite, workers):
    """At every step, wherever each episode is: its hidden state comes back with its return and its
    successes.
    """
    before, after = actions(37), actions(60, seed=1)
    with make(**suite) as envs:
        envs.reset()
        course(envs, before)
        state = reread(envs.get_state())
        lengths = {len(row["actions"]) for row in state["rows"]}
        assert len(lengths) > 1, "episodes are not aligned"
        whole = course(envs, after)
    with make(workers=workers, **suite) as restored:
        restored.set_state(state)
        assert restored.get_state() == state
        assert_same(whole, course(restored, after))
    assert any(each["_episode"].any() for each in whole)


def test_a_task_that_is_not_reproducible_is_named_at_the_start_and_refused_when_it_matters():
    options = [{}, {"drifts": True}]
    with make(seeds=(3,), options=options) as envs:
        [remark] = envs.suite.warnings()
        assert (
            remark.startswith(f"task {POINT_MASS}(drifts=true) does not repeat")
            and "cannot be resumed" in remark
        )
        envs.reset()
        course(envs, actions(5, rows=2))
        state = envs.get_state()
        with pytest.raises(
            ValueError, match=r"drifts=true\), seed 3 is not reproducible"
        ) as caught:
            envs.set_state(state)
    assert "\n" not in str(caught.value) and gymnasium_suite(**TASKS).warnings() == []


def test_an_observation_of_another_shape_is_an_error_in_every_step():
    with make(seeds=(3,), tasks=[POINT_MASS], options=None) as envs:
        envs.reset()
        [environment] = envs._pool._host._environments.values()
        environment.environment.unwrapped.shape = (1,)
        with pytest.raises(WorkerError, match="shape"):
            envs.step(np.zeros((1, 1)))


@pytest.mark.parametrize("option", ["blinded_at", "unpaid_at"])
def test_nan_repeats_and_is_restored_bit_for_bit(option):
    suite = {"tasks": [POINT_MASS], "options": [{"edge": 1000, option: 3}]}
    assert gymnasium_suite(**suite).warnings() == []
    with make(seeds=(3,), **suite) as envs:
        envs.reset()
        course(envs, actions(7, rows=1))
        state = reread(envs.get_state())
        after = flatten(envs.step(np.ones((1, 1))))
        assert np.isnan(after["rewards" if option == "unpaid_at" else "observations"]).any()
        envs.set_state(state)
        for name, array in flatten(envs.step(np.ones((1, 1)))).items():
            assert np.array_equal(array, after[name], equal_nan=True)
        other = {**state["rows"][0], "returned": 0.5, "observation": bytes(8)}
        with pytest.raises(ValueError, match="not reproducible"):
            envs.set_state({**state, "rows": [other]})


def test_the_state_of_long_episodes_is_stored_in_arrays():
    suite = {"tasks": [POINT_MASS], "options": [{"edge": 1e9}]}
    with make(seeds=(3,), **suite) as envs:
        envs.reset()
        sizes = []
        for _ in range(2):
            course(envs, actions(14, rows=1))
            plain, arrays = to_arrays(envs.get_state())
            sizes.append(len(json.dumps(plain)))
            stored = sum(array.nbytes for array in arrays.values())
            assert stored <= envs.largest_state
        assert sizes[0] == sizes[1] and arrays["actions"].nbytes == 28 * 4


@pytest.mark.parametrize("name", ["goals", "actions", "action_counts", "generators", "returned"])
def test_damaged_arrays_of_a_state_are_refused(name):
    with make(seeds=(3,)) as envs:
        envs.reset()
        course(envs, actions(5, rows=2))
        plain, arrays = to_arrays(envs.get_state())
        missing = {key: array for key, array in arrays.items() if key != name}
        damaged = [missing, {**arrays, name: arrays[name][:1]}, {**arrays, name: -1 - arrays[name]}]
        for each in damaged[: 2 if name in ("actions", "returned") else 3]:
            with pytest.raises(ValueError, match=r"damaged|intact"):
                envs.set_state(from_arrays(plain, each))


def test_damaged_states_are_refused():
    with make(seeds=(3,)) as envs:
        envs.reset()
        course(envs, actions(5, rows=2))
        state = envs.get_state()
        damage = [
            ("actions", "AAA"),
            ("actions", "AAAA"),
            ("actions", 5),
            ("returned", None),
            ("task", "x"),
        ]
        for key, value in damage:
            rows = [state["rows"][0], {**state["rows"][1], key: value}]
            with pytest.raises(ValueError, match="does not hold 2 intact rows"):
                envs.set_state({**state, "rows": rows})
        long = {**state["rows"][1], "actions": state["rows"][1]["actions"] * 20}
        with pytest.raises(ValueError, match="intact rows"):
            envs.set_state({**state, "rows": [state["rows"][0], long]})
        other = {**state, "made": {**state["made"], "gymnasium": "1.0.0"}}
        with pytest.raises(ValueError, match=r"had gymnasium='1\.0\.0'"):
            envs.set_state(other)
    with make(seeds=(3,), horizon=7) as shorter:
        shorter.reset()
        with pytest.raises(
            ValueError,
            match=r"had .*PointMass-v0='30 steps, is_success in any step, observations \[2\]",
        ):
            shorter.set_state(state)


def push(observations):
    """Towards 1 with little overshoot, and so a success on the way."""
    return np.clip(1.0 - 2 * observations[:, :1], -1, 1) - 0.3


def test_success_is_what_infos_say_of_any_step():
    with make(seeds=(3,), tasks=[POINT_MASS], options=None, role="eval") as envs:
        found = evaluate(envs, push, all_goals(envs.suite, [3])[..., :5])
        assert envs.suite.protocol()["success"] == "is_success in any step"
    assert found.success.all() and (found.lengths > 1).all() and found.returns.max() < 0


def test_success_by_a_return_is_that_of_the_whole_episode():
    """The running sum begins at 0, above a negative threshold: only the end decides."""
    with make(seeds=(3,), tasks=[POINT_MASS], options=None, success_return=-9, role="eval") as envs:
        goals = all_goals(envs.suite, [3])[..., :20]
        found = evaluate(envs, lambda observations: np.sin(9e3 * observations[:, :1]), goals)
        assert np.array_equal(found.success, found.returns >= -9) and 0 < found.success.mean() < 1
        infos = envs.reset(options={"goals": goals[0, :, :1]})[1]
        while not infos["idle"].all():
            infos = envs.step(np.zeros((1, 1)))[4]
            assert infos["_episode"][0] or not infos["success"][0]


def test_a_threshold_comes_from_the_configuration_the_infos_or_the_registry():
    rated, silent = "tests.support.point_mass:Rated-v0", {"informs": False}
    assert [each.success for each in gymnasium_suite([rated, rated], [{}, silent]).specs] == [
        "is_success",
        -5.0,
    ]
    given = gymnasium_suite([rated, rated], [{}, silent], success_return=[None, 3]).specs
    assert [each.success for each in given] == ["is_success", 3.0]
    protocol = gymnasium_suite([rated, rated], [{}, silent], success_return=2).protocol()
    assert protocol["success"] == "return ≥ 2" and protocol["episode_steps"] == "20"


def test_the_shorter_limit_ends_an_episode():
    limits = [{"horizon": None}, {"horizon": 25}, {"horizon": 4}]
    suites = [
        gymnasium_suite([POINT_MASS, "tests.support.point_mass:Rated-v0"], **each)
        for each in limits
    ]
    assert [suite.protocol()["episode_steps"] for suite in suites] == ["30, 20", "25, 20", "4"]
    with TaskVectorEnv(suites[2], [0], 0) as envs:
        envs.reset()
        ends = [envs.step(np.zeros((2, 1)))[3].tolist() for _ in range(8)]
    assert [any(each) for each in ends] == [False, False, False, True] * 2


def test_evaluations_play_reset_seeds_of_their_own():
    suite = gymnasium_suite(**TASKS)
    every = all_goals(suite, [0, 1])
    assert every.shape == (2, 2, 50) and len(np.unique(every)) == 200 and every.min() >= 0
    drawn = evaluation_goals(suite, [0, 1], 10, 400)
    assert all(
        set(some) < set(all_)
        for some, all_ in zip(drawn.reshape(4, -1), every.reshape(4, -1), strict=True)
    )
    assert not np.array_equal(drawn, evaluation_goals(suite, [0, 1], 10, 500))
    with (
        make(role="eval", seeds=(0, 1)) as envs,
        make(workers=1, role="eval", seeds=(0, 1)) as others,
    ):
        first, second = evaluate(envs, push, drawn), evaluate(others, push, drawn)
    assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
    assert len(np.unique(first.returns)) == first.returns.size


@pytest.mark.parametrize("every", [1, 2, 3])
def test_films_may_leave_out_steps_but_never_the_last(every):
    suite = gymnasium_suite(**TASKS)

    def record(every):
        return record_episode(suite, TASK_NAMES[1], 0, lambda _: np.ones(1), 7, every=every)

    whole, some = record(1), record(every)
    steps = len(whole.frames) - 1
    shown = [*range(0, steps, every), steps]
    assert np.array_equal(some.frames, whole.frames[shown]) and some.success == whole.success
    assert shown[some.decided] - every < whole.decided <= shown[some.decided]


def test_films_show_the_episode():
    suite = gymnasium_suite(**TASKS)
    film = record_episode(suite, TASK_NAMES[1], 0, lambda observation: np.ones(1), goal=7).frames
    assert (
        film.shape[1:] == (8, 16, 3) and film.dtype == np.uint8 and film[0].mean() < film[-1].mean()
    )


CASES = [
    ({"tasks": []}, "needs to know its tasks: add env.tasks=[ID,…]"),
    ({"tasks": None}, "needs to know its tasks"),
    ({"tasks": ["Pendulm-v1"]}, "task Pendulm-v1 cannot be made (NameNotFound: "),
    (
        {"tasks": ["Pendulm-v1"]},
        "Did you mean: `Pendulum`?): choose an id of gymnasium.pprint_registry(), or MOD",
    ),
    ({"tasks": ["nowhere_at_all:Mine-v0"]}, "No module named 'nowhere_at_all'"),
    ({"tasks": ["nowhere_at_all:Mine-v0"]}, "install what is missing, or choose another."),
    ({"tasks": [POINT_MASS], "options": [{"gaol": 3}]}, "unexpected keyword argument 'gaol'"),
    (
        {"tasks": [POINT_MASS, POINT_MASS]},
        f"names {POINT_MASS} 2 times: give each once, or tell them apart by env.task_options.",
    ),
    (
        {"tasks": [POINT_MASS], "options": [{}, {}]},
        "env.task_options has 2 entries for 1 tasks: give one for each",
    ),
    (
        {"tasks": ["PointMass-v0(edge=3)"], "options": [{"edge": 2}]},
        "give the id PointMass-v0 alone",
    ),
    (
        {"tasks": [POINT_MASS], "options": [{"space": "discrete"}]},
        "has the action space Discrete(2) where a Box",
    ),
    ({"tasks": [POINT_MASS], "options": [{"space": "dict"}]}, "has the observation space Dict("),
    (
        {"tasks": [POINT_MASS], "options": [{"high": float("inf")}]},
        "where real numbers between finite, different bounds",
    ),
    (
        {"tasks": [POINT_MASS], "options": [{"low": 4.0}]},
        "Box(4.0, 4.0, (1, 1), float32) where real numbers between",
    ),
    (
        {"tasks": [POINT_MASS, POINT_MASS], "options": [{}, {"numbers": 3}]},
        f"observations of task {POINT_MASS}(numbers=3) have shape [3] and those of "
        f"{POINT_MASS} [2]: one agent "
        "needs equal ones",
    ),
    (
        {"tasks": ["tests.support.point_mass:Endless-v0"]},
        "has no time limit of its own: add env.horizon=STEPS.",
    ),
    (
        {"tasks": [POINT_MASS], "options": [{"informs": False}]},
        "when it succeeds: add env.success_return=RETURN",
    ),
    (
        {"tasks": [POINT_MASS], "success_return": "high"},
        "env.success_return=high does not fit 1 tasks: give one number",
    ),
    (
        {"tasks": [POINT_MASS], "success_return": [1, 2]},
        "env.success_return=[1, 2] does not fit 1 tasks",
    ),
    *(
        (
            {"tasks": [POINT_MASS], "options": [{"shape": shape}]},
            f"it observed an array of shape {shape}, but its observation space has shape [2]",
        )
        for shape in ([], [1], [1, 1], [2, 1])
    ),
    (
        {"tasks": [POINT_MASS], "options": [{"edge": "far"}]},
        "failed in an episode of random actions (TypeError: ",
    ),
]


@pytest.mark.parametrize(("arguments", "said"), CASES, ids=[said[:40] for _, said in CASES])
def test_what_cannot_be_trained_on_is_one_sentence(arguments, said):
    with pytest.raises(ValueError) as caught:
        gymnasium_suite(**arguments)
    assert (
        said in str(caught.value)
        and "\n" not in str(caught.value)
        and str(caught.value).endswith(".")
    )
