"""Comparison with the paper's Table 4: rows of groups, and differences between protocols."""

import csv
import io

import pytest

from mtrl_fairgrad.analysis.paper_tables import paper_table
from mtrl_fairgrad.analysis.report.formats import as_csv, as_latex, as_markdown, as_text
from mtrl_fairgrad.analysis.report.paper_comparison import (
    PRINTED,
    differences,
    row_of,
    table4_comparison,
    table4_number,
)
from tests.support.fabricated_runs import FAIRGRAD, MT10, blocks_of_runs, groups_of


@pytest.fixture
def mt10(make):
    def make_mt10(name, method, agent="mtsac", **config):
        success = {0: [[0.0] * 10], 1000: [[0.5] * 10]}
        options = {
            "agent": {"name": agent, "batch_size": 128},
            "eval": {"every": 500, "episodes": 10},
            **config,
        }
        return make(name, success, seeds=[0], tasks=MT10, method=method, **options)

    return make_mt10


@pytest.mark.parametrize(
    ("method", "agent", "row"),
    [
        ("fairgrad", "mtsac", "fairgrad"),
        ("nash_mtl", "mtsac", "nash_mtl"),
        ("ls", "mtsac", "mtl_sac"),
        ("ls", "mtsac_te", "mtl_sac_te"),
        ("ls", "mhsac", "mh_sac"),
        ("stl", "mtsac", "stl"),
        ("ls", "stl", "stl"),
        ("fairgrad", "mhsac", None),
        ("mgda", "mtsac", None),
        ("ls", "somebody's", None),
    ],
)
def test_each_group_has_the_row_of_its_method_and_agent(mt10, method, agent, row):
    [group] = groups_of(mt10("a", {"name": method}, agent))
    assert row_of(group) == row


def test_every_row_of_the_table_has_its_printed_name():
    assert set(PRINTED) == set(paper_table("table4").methods)


def test_only_the_ten_tasks_of_mt10_have_a_row(make, mt10):
    [few] = blocks_of_runs(make("a"))
    quick = blocks_of_runs(mt10("b", FAIRGRAD, preset="quick"))[0]
    other = blocks_of_runs(mt10("c", FAIRGRAD, env={"name": "mine", "suite": "gymnasium"}))[0]
    for block in (few, quick, other):
        assert (
            row_of(block.groups[0]) is None
            and table4_comparison(block) is None
            and differences(block) is None
        )
        assert table4_number(block.groups[0]) != table4_number(block.groups[0])  # NaN


def test_the_table_stands_beside_ours_with_the_paper_whole(mt10):
    [block] = blocks_of_runs(mt10("a", FAIRGRAD), mt10("b", {"name": "mgda"}))
    rows = {row[0]: row[1:] for row in table4_comparison(block).rows}
    assert rows["FairGrad"] == ["0.84 ± 0.07", "0.500", "0.500", "1", "fairgrad (α=2, sgd)"]
    assert rows["STL"] == ["0.90 ± 0.03", "–", "–", "–", "–"]
    assert rows["–"] == ["–", "0.500", "0.500", "1", "mgda"]
    assert len(rows) == 12
    [only] = table4_comparison(block, ours_only=True).rows
    assert only[0] == "FairGrad"
    assert table4_comparison(blocks_of_runs(mt10("c", {"name": "mgda"}))[0], ours_only=True) is None


def test_two_groups_of_one_row_stand_below_each_other(mt10):
    [block] = blocks_of_runs(mt10("a", FAIRGRAD), mt10("b", {**FAIRGRAD, "alpha": 1.0}))
    found = [row for row in table4_comparison(block).rows if row[0] == "FairGrad"]
    assert [row[-1] for row in found] == ["fairgrad (α=2, sgd)", "fairgrad (α=1, sgd)"]


def test_the_difference_between_the_protocols_is_spelled_out(mt10):
    protocol = {
        "protocol": {"simulators": "Meta-World v3", "goals": "50 at random", "success": "any step"}
    }
    env = {"suite": "mt10", "horizon": 500, "reward_version": "v2"}
    [block] = blocks_of_runs(mt10("a", FAIRGRAD, env=env, manifest=protocol, steps=2000))
    found = {aspect: (paper, here) for aspect, paper, here in differences(block).rows}
    assert found["horizon"] == ("150 steps", "horizon 500")
    assert found["rewards"][1] == "reward version v2" and found["goals"][1] == "goals 50 at random"
    assert found["task id"][1] == "one hot" and found["observation"][1] == "not recorded"
    assert found["training"][1] == "1,000 vector steps of 2,000 planned, batch 128 of each task"
    assert (
        found["evaluation"][1]
        == "every 500 steps, 10 deterministic episodes of each task; 50 in the last one"
    )
    assert found["seeds"] == ("10", "1")
    [warning] = table4_comparison(block).notes
    assert "horizon 150" in warning and "under mt10," in warning
    for text in (as_markdown([block]), as_latex([block]), as_text([block])):
        assert "Table 4" in text and "version 1 rewards" in text


def test_the_csv_has_the_papers_number_in_the_row_of_the_mean(mt10):
    mean, *tasks = csv.DictReader(io.StringIO(as_csv(groups_of(mt10("a", FAIRGRAD)))))
    assert (mean["paper_best"], mean["paper_best_stderr"]) == ("0.84", "0.07")
    assert {row["paper_best"] for row in tasks} == {""}
