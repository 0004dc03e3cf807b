"""The table of results: columns, rows, means, and how it is shown."""

import numpy as np
import pytest

from mtrl_fairgrad.api.table import SHOWN_ROWS, Table
from tests.support.errors import refused

TABLE = Table({"env_steps": [0, 0, 10, 10], "task": list("abab"), "success": [0.0, 0.5, 1.0, 0.25]})


def test_columns_have_names_and_types():
    assert TABLE.columns == ("env_steps", "task", "success") and TABLE.shape == (4, 3)
    assert TABLE["success"].dtype == float and TABLE["task"].tolist() == list("abab")
    assert TABLE.to_dict()["env_steps"].tolist() == [0, 0, 10, 10]
    with refused("column", "sucess"):
        TABLE["sucess"]


def test_nothing_can_be_written():
    with pytest.raises(ValueError, match="read-only"):
        TABLE["success"][0] = 1


def test_rows_are_chosen_by_condition_and_by_value():
    assert [row["task"] for row in TABLE[TABLE["success"] > 0.4].rows()] == ["b", "a"]
    assert list(TABLE.where(task="a", env_steps=10).rows()) == [
        {"env_steps": 10, "task": "a", "success": 1.0}
    ]
    assert len(TABLE.where(task="c")) == 0


def test_means_of_groups_are_sorted():
    assert list(TABLE[::-1].mean("success", by="env_steps").rows()) == [
        {"env_steps": 0, "success": 0.25},
        {"env_steps": 10, "success": 0.625},
    ]
    assert np.isnan(Table({"a": [1, 1], "b": [np.nan, 1]}).mean("b", by="a")["b"]).all()


def test_it_is_shown_as_text_and_html():
    assert "0.625" in repr(TABLE.mean("success", by="env_steps"))
    assert "[4 rows × 3 columns]" in repr(TABLE)
    assert "<td>&lt;b&gt;</td>" in Table({"task": ["<b>"]})._repr_html_()


def test_only_the_ends_of_a_long_table_are_shown():
    lines = repr(Table({"n": np.arange(1000)})).splitlines()
    assert len(lines) == SHOWN_ROWS + 4  # heading, rule, dots and size
    assert lines[2].strip() == "0" and lines[-2].strip() == "999"


def test_pandas_takes_it():
    pandas = pytest.importorskip("pandas")
    assert TABLE.to_pandas().equals(pandas.DataFrame(TABLE.to_dict()))
    assert TABLE.to_pandas().success.sum() == 1.75


def test_it_is_indexed_as_pandas_users_expect():
    assert list(TABLE) == list(TABLE.columns) and "success" in TABLE
    assert TABLE[["task", "success"]].columns == ("task", "success")
    assert TABLE[np.argsort(TABLE["success"])]["task"].tolist() == list("abba")
    assert TABLE.where(task=["a", "c"])["env_steps"].tolist() == [0, 10]
    assert len(TABLE.where(task=["b", "a", "b", "a"])) == 4, "a list is not compared row by row"
    with refused("key", 0):
        TABLE[0]
    with refused("by", ["task"]):
        TABLE.mean("success", by=["task"])
