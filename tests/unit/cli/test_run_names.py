"""Names of the run folders of a sweep."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl_fairgrad.cli.run_names import MAX_LENGTH, old_run_name, run_name


@pytest.mark.parametrize(
    ("words", "readable"),
    [
        (["method=ls", "seeds=[0,1]"], "ls-seeds0_1"),
        (["agent.width=16", "seeds=[0]", "method=nash_mtl"], "nash_mtl-seeds0-width16"),
        (["alpha=0.5", "env=mt1", "env.task=reach-v3"], "alpha0.5-mt1-reach_v3"),
        (["agent.learning_rate=1e-3"], "learning_rate1e_3"),
        (["env.tasks=[my.module:Near-v0]"], "tasks_Near_v0"),
        (["env.tasks=['my.module:A-v0',b:C-v1]"], "tasks_A_v0_C_v1"),
        (["+method.new=-1"], "new_1"),
        ([], "run"),
    ],
)
def test_a_name_shows_what_makes_a_run(words, readable):
    assert re.fullmatch(rf"{re.escape(readable)}-[0-9a-f]{{8}}", run_name(words))


def test_a_name_depends_on_what_changes_results_alone():
    words = ["agent.width=16", "seeds=[0, 1]", "method=ls"]
    same = ["env.workers=0", "progress=false", "run_dir=/x", "resume=auto"]
    assert run_name([*words, *same]) == run_name(list(reversed(words)))
    assert run_name(words) == run_name(["agent.width=16", "seeds=[0,1]", "method=ls"])
    assert run_name(["steps=1000000.0", "a=[1.0,2]"]) == run_name(["steps=1000000", "a=[1,2]"])
    others = [[*words, "steps=9"], words[1:], ["agent.width=1", *words[1:]]]
    assert len({run_name(each) for each in (words, *others)}) == 4


def test_what_is_left_out_or_replaced_still_tells_runs_apart():
    long = [f"agent.option_{n}=1234567890" for n in range(30)]
    pairs = [
        ([*long, "z.a=1"], [*long, "z.a=2"]),
        (["a=x/y"], ["a=x_y"]),
        (["a=-1"], ["a=1"]),
        (["agent.x=1"], ["env.x=1"]),
        (["a=α"], ["a=β"]),
        (["a=" + "x" * 50 + "1"], ["a=" + "x" * 50 + "2"]),
    ]
    for one, two in pairs:
        assert run_name(one) != run_name(two)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40).map("a.b=".__add__), max_size=9))
def test_a_name_is_short_and_suits_shells_and_file_systems(words):
    name = run_name(words)
    assert len(name) <= MAX_LENGTH and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)


def test_the_name_of_an_older_version_is_known():
    words = ["agent.width=16", "seeds=[0,1]", "method=ls", "env.workers=0", "steps=9"]
    assert old_run_name(words) == "method=ls,seeds=0,1,steps=9,agent.width=16"
    assert old_run_name(["+a='x y/z$'", "b={c:1}"]) == "+a=xy_z_,b=c_1"
    assert old_run_name([]) == "run"
