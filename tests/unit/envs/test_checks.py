import re

import numpy as np
import pytest

from tests.support.errors import refused
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
        foreign = {**state, "made": {**state["made"], key: value}}
        with refused(key):
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
    ],
)
def test_wrong_tasks(options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        make(**options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({"seeds": ()}, "seeds", []),
        ({"seeds": (1, 2, 1)}, "seeds", [1, 2, 1]),
        ({"seeds": (-1,)}, "seeds", -1),
        ({"seeds": (2**32,)}, "seeds", 2**32),
        ({"seeds": (1.5,)}, "seeds", 1.5),
        ({"seeds": (True,)}, "seeds", True),
        ({"workers": -1}, "workers", -1),
        ({"horizon": 501}, "horizon", 501),
        ({"horizon": 0}, "horizon", 0),
        ({"reward_version": "v3"}, "reward_version", "v3"),
        ({"goal_choice": "fixed"}, "goal_choice", "fixed"),
        ({"observation": "some"}, "observation", "some"),
        ({"role": "test"}, "role", "test"),
    ],
)
def test_wrong_arguments(options, key, value):
    with refused(key, value):
        make(**options)


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
    "goals",
    [
        [[0], [1], [2], [50]],
        [[0], [1], [2], [-1]],
        [[0], [1]],
        [0, 1, 2, 3],
        np.zeros((4, 0), int),
        [[0.0], [1.0], [2.0], [3.0]],
    ],
    ids=repr,
)
def test_wrong_goals(evaluating, goals):
    with refused("goals"):
        evaluating.reset(options={"goals": goals})


def test_wrong_actions(training):
    training.reset()
    before = training.get_state()
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
    assert training.get_state() == before, "a refused action moves nothing"
