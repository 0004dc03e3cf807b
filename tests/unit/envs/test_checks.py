import json
import re

import numpy as np
import pytest

from tests.unit.envs.conftest import make


def test_foreign_and_damaged_states_are_refused(training):
    training.reset()
    state = training.get_state()
    for key, value in [
        ("horizon", 19),
        ("seeds", [3, 6]),
        ("tasks", ["reach-v3"]),
        ("metaworld", "3.0.0"),
        ("goal_choice", "x"),
    ]:
        foreign = json.loads(json.dumps(state))
        foreign["made"][key] = value
        with pytest.raises(ValueError, match=re.escape(f"had {key}={value!r} and these have")):
            training.set_state(foreign)
    damaged = [{}, [], None, {"made": state["made"]}, {**state, "rows": state["rows"][:3]}]
    damaged += [
        {**state, "rows": [*state["rows"][:3], row]}
        for row in (None, {}, {"goal": 0}, {"goal": 50})
    ]
    damaged.append({**state, "rows": [*state["rows"][:3], {**state["rows"][3], "goal": 50}]})
    damaged.append(
        {
            **state,
            "rows": [*state["rows"][:3], {"goal": 3, "generator": {"bit_generator": "MT19937"}}],
        }
    )
    for each in damaged:
        with pytest.raises(ValueError, match=r"damaged|intact") as caught:
            training.set_state(each)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(
            "use another checkpoint."
        )
    assert training.get_state() == state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tasks": ("reach-v2",)},
            "task 'reach-v2' is not one of Metaworld's: choose reach-v3 (closest)",
        ),
        ({"tasks": ()}, "tasks=[] leaves nothing"),
        ({"tasks": ("reach-v3", "reach-v3")}, "names 'reach-v3' 2 times"),
        ({"seeds": ()}, "seeds=[] leaves nothing to run"),
        ({"seeds": (1, 2, 1)}, "seeds=[1, 2, 1] holds 1 2 times"),
        ({"seeds": (-1,)}, "seed=-1 is not an integer from 0 to 4294967295"),
        ({"seeds": (2**32,)}, "seed=4294967296 is not an integer"),
        ({"seeds": (1.5,)}, "seed=1.5 is not an integer"),
        ({"workers": -1}, "workers=-1 is not an integer from 0"),
        ({"horizon": 501}, "horizon=501 is not an integer from 1 to 500"),
        ({"horizon": 0}, "horizon=0 is not an integer from 1 to 500"),
        ({"reward_version": "v3"}, "reward_version='v3' is not known: choose v2"),
        ({"goal_choice": "fixed"}, "goal_choice='fixed' is not known: choose random or frozen."),
        (
            {"observation": "some"},
            "observation='some' is not known: choose full or hand_objects_goal.",
        ),
        ({"role": "test"}, "role='test' is not known: choose train or eval."),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        make(**options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": {"goals": [[0]]}}, "role='train' draws its goals itself"),
        ({"options": {"gaols": [[0]]}}, "reset has no option 'gaols': it takes goals."),
        ({"seed": 3}, "reset(seed=3) would change nothing: give seeds=[3]"),
    ],
)
def test_wrong_resets(training, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        training.reset(**options)


@pytest.mark.parametrize(
    ("goals", "message"),
    [
        ([[0], [1], [2], [50]], "goal 50 does not exist: a task has goals 0 to 49."),
        ([[0], [1], [2], [-1]], "goal -1 does not exist"),
        ([[0], [1]], "shape [2, 1] do not fit: give integers [4, E]"),
        ([0, 1, 2, 3], "shape [4] do not fit"),
        (np.zeros((4, 0), int), "shape [4, 0] do not fit"),
        ([[0.0], [1.0], [2.0], [3.0]], "goals of type float64"),
    ],
)
def test_wrong_goals(evaluating, goals, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluating.reset(options={"goals": goals})


def test_wrong_actions(training):
    training.reset()
    with pytest.raises(
        ValueError, match=re.escape("actions of shape [4, 3] do not fit: give [4, 4]")
    ):
        training.step(np.zeros((4, 3)))
    actions = np.zeros((4, 4))
    actions[3, 1] = np.nan
    with pytest.raises(
        ValueError, match="for task drawer-close-v3, seed 5 is not finite: the policy has diverged"
    ):
        training.step(actions)
    actions[3, 1] = 1e39  # beyond float32
    with pytest.raises(ValueError, match="not finite"), np.errstate(over="ignore"):
        training.step(actions)
    assert training.at_boundary, "a refused action moves nothing"
