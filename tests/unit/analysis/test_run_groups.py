"""Which runs belong together, and what they are called."""

from mtrl_fairgrad.analysis.report.formats import as_text
from mtrl_fairgrad.analysis.report.protocol_blocks import make_blocks
from mtrl_fairgrad.analysis.run_groups import NOT_COMPARED, blocks_of
from mtrl_fairgrad.config.schema import RESUMABLE, flatten
from tests.support.fabricated_runs import FAIRGRAD, METHOD, PROTOCOL, groups_of


def test_blocks_keep_runs_of_one_protocol_together(make):
    paths = [
        make("a"),
        make("b", env={"horizon": 150}),
        make("c", method={"name": "ls"}),
        make("d", method={"name": "ls"}, env={"horizon": 150}),
    ]
    groups = groups_of(*paths)
    assert [(group.label, "150" in group.protocol) for group in groups] == [
        (METHOD, False), ("ls", False), (METHOD, True), ("ls", True)
    ]  # fmt: skip


def test_the_protocol_says_all_that_sets_it_apart(make):
    told = {"protocol": {"horizon": 500, "goals": "frozen"}}
    groups = groups_of(
        make("a", env={"goals": "random"}), make("b", env={"goals": "random"}, manifest=told)
    )
    assert [group.protocol.removeprefix(PROTOCOL) for group in groups] == [
        " · goals random",
        # the configuration and the record disagree; that must not go unseen
        " · goals random · goals frozen",
    ]
    assert len(blocks_of(groups)) == 2


def test_runs_of_one_way_to_evaluate_stand_together(make):
    rarely = {"eval": {"every": 5000, "episodes": 1}}
    groups = groups_of(make("a"), make("b", **rarely), make("c", method={"name": "ls"}))
    assert [len(block) for block in blocks_of(groups)] == [2, 1]


def test_copies_are_compared_under_one_protocol_which_names_the_training_horizon(make):
    groups = groups_of(
        make("a", env={"copies": 1, "stagger": False}),
        make("b", env={"copies": 8, "stagger": True}),
        make("c", env={"copies": 8, "stagger": True, "train_horizon": 200}),
    )
    assert [len(block) for block in blocks_of(groups)] == [2, 1]
    assert "env.copies=8" in groups[1].label and "env.copies=1" in groups[0].label
    assert groups[2].protocol == f"{groups[0].protocol} · train horizon 200"
    assert "copies" not in groups[2].protocol


def test_what_may_differ_when_a_run_is_resumed_sets_no_runs_apart():
    assert {"steps"} == RESUMABLE - NOT_COMPARED


def test_a_missing_option_has_the_value_of_the_runs_version(make):
    of_agent = {"name": "mtsac", "own_gradients": "plain", "temperature_loss": "log"}
    groups = groups_of(
        make("a", agent={"name": "mtsac"}),
        make("b", agent={**of_agent, "twin_loss": "mean"}, seeds=(5, 6)),
        make("c", agent={**of_agent, "twin_loss": "sum"}),
    )
    assert [len(group.folders) for group in groups] == [2, 1]
    assert [group.label for group in groups] == [
        f"{METHOD[:-1]}, agent.twin_loss={choice})" for choice in ("mean", "sum")
    ]


def test_options_of_a_solver_that_is_not_used_set_no_runs_apart(make):
    newton = {**FAIRGRAD, "solver": "newton"}
    groups = groups_of(
        make("a", method=newton),  # of a version without the option
        make("b", method={**newton, "sgd_precision": "float32"}, seeds=(5, 6)),
        make("c", method={**FAIRGRAD, "sgd_precision": "float32"}),
        make("d"),
    )
    assert [group.label for group in groups] == [
        "fairgrad (α=2, newton)",
        "fairgrad (α=2, sgd, sgd_precision=float32)",
        "fairgrad (α=2, sgd, sgd_precision=float64)",
    ]


def test_labels_tell_what_sets_methods_apart(make):
    groups = groups_of(
        make("a"),
        make("b", method={**FAIRGRAD, "solver": "newton"}),
        make("c", method={**FAIRGRAD, "sgd_steps": 40}),
        make("d", method={"name": "ls", "reduction": "mean"}, agent={"width": 256}),
        make("e", method={"name": "ls", "reduction": "mean"}, agent={"width": 400}),
        make("f", method={"name": "cagrad", "c": 0.4}, agent={"width": 400}),
    )
    assert [group.label for group in groups] == [
        "fairgrad (α=2, sgd)",
        "fairgrad (α=2, newton)",
        "fairgrad (α=2, sgd, sgd_steps=40)",
        "ls (agent.width=256)",
        "ls (agent.width=400)",
        "cagrad",
    ]
    text = as_text(make_blocks(groups))
    assert "[6] cagrad" in text and "final, by task" in text
    assert max(map(len, text.splitlines())) <= 120


def test_an_agents_name_tells_its_options_and_the_plain_one_goes_unsaid(make):
    ls = {"name": "ls", "reduction": "mean"}
    groups = groups_of(
        make("a", method=ls, agent={"name": "mtsac", "width": 400}),
        make("b", method=ls, agent={"name": "mhsac", "width": 300, "head": 20}),
        make("c", method=ls, agent={"name": "mhsac", "width": 500, "head": 20}),
        make("d", agent={"name": "mtsac", "width": 400}),
    )
    assert [group.label for group in groups] == [
        "ls",
        "ls (mhsac, agent.width=300)",
        "ls (mhsac, agent.width=500)",
        METHOD,
    ]


def test_how_often_and_how_long_evaluations_are_stands_in_the_protocol(make):
    [group] = groups_of(make("a", eval={"every": 5000, "episodes": 1, "workers": 3}))
    assert group.protocol == f"{PROTOCOL} · eval every 5000 · eval episodes 1"
    assert "workers" not in group.protocol


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": None,
    }
