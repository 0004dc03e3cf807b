"""Options that a stored configuration lacks have the value that its version used."""

import copy
from pathlib import Path

import pytest

from mtrl_fairgrad.config.older_runs import RETYPED, VALUES, complete, missing_options
from mtrl_fairgrad.config.schema import (
    Config,
    changed_keys,
    from_stored,
    keep_stored_options,
    to_dict,
)
from tests.support.older_runs import without_newer_options
from tests.support.tiny_runs import composed

OLD = without_newer_options(to_dict(composed("env=mt10_paper", "env.tasks=[reach-v3]")))


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


def test_every_entry_is_an_option_whose_value_is_allowed():
    from mtrl_fairgrad.config.schema import validate

    config = composed()
    for key, value in VALUES.items():
        assert isinstance(value, type(value_of(Config(), key))), key
        group, _, name = key.rpartition(".")
        setattr(getattr(config, group) if group else config, name, value)
    validate(config)


def test_what_is_missing_is_completed_and_what_is_there_is_kept():
    assert missing_options(OLD) == {**VALUES, "method.sgd_precision": "float64"}
    before = copy.deepcopy(OLD)
    completed = complete(OLD)
    assert before == OLD, "the argument is not changed"
    assert not missing_options(completed) and complete(completed) == completed
    assert completed["agent"]["twin_loss"] == "mean"
    new = {**OLD, "agent": {**OLD["agent"], "twin_loss": "sum"}}
    assert complete(new)["agent"]["twin_loss"] == "sum"


def test_an_option_that_changes_nothing_by_default_needs_no_entry():
    """A preset may turn it on now; the older run had it off."""
    new = {"copies": 1, "stagger": False, "train_horizon": None}
    older = {**OLD, "env": {key: v for key, v in OLD["env"].items() if key not in new}}
    missing = missing_options(older)
    assert {key: missing[f"env.{key}"] for key in new} == new
    resumed = composed("env=mt10_paper", "env.tasks=[reach-v3]", "env.copies=4")
    keep_stored_options(resumed, older, ["env=mt10_paper"])
    assert resumed.env.copies == 1 and changed_keys(complete(older), to_dict(resumed)) == []


def test_an_option_that_is_gone_is_dropped():
    older = {**OLD, "grace_seconds": 60.0}
    assert complete(older) == complete(OLD)
    assert from_stored(older, Path("config.yaml")) == from_stored(OLD, Path("config.yaml"))


@pytest.mark.parametrize("stored", [{}, {"method": "ls"}, {"agent": None}, {"agent": "mtsac"}])
def test_a_configuration_without_the_group_lacks_nothing(stored):
    assert missing_options(stored) == {} and complete(stored) == stored


def test_an_option_of_a_method_is_completed_for_that_method():
    stored = {"method": {"name": "fairgrad", "solver": "sgd"}}
    assert missing_options(stored) == {"method.sgd_precision": "float64"}
    assert complete(stored)["method"] == {**stored["method"], "sgd_precision": "float64"}
    assert missing_options({"method": {"name": "ls"}}) == {}


def test_a_supervised_configuration_lacks_no_option_of_the_top_level():
    assert missing_options({"benchmark": {"name": "toy"}, "method": {"name": "ls"}}) == {}


@pytest.mark.parametrize("value", [False, True])
def test_switches_that_were_true_or_false_mean_what_they_meant(value):
    stored = {**OLD, "compile": value, "cuda_graph": value}
    word = str(value).lower()
    assert {complete(stored)[key] for key in RETYPED} == {word}
    read = from_stored(stored, Path("config.yaml"))
    assert (read.compile, read.cuda_graph, read.precision) == (word, word, "fp32")
    resumed = composed("env=mt10_paper", "env.tasks=[reach-v3]")
    assert (resumed.compile, resumed.cuda_graph) == ("auto", "auto")
    keep_stored_options(resumed, stored, ["env=mt10_paper"])
    assert changed_keys(complete(stored), to_dict(resumed)) == []
    told = composed("env=mt10_paper", "env.tasks=[reach-v3]", "cuda_graph=auto")
    keep_stored_options(told, stored, ["env=mt10_paper", "cuda_graph=auto"])
    assert changed_keys(complete(stored), to_dict(told)) == [("cuda_graph", word, "auto")]


def test_a_stored_configuration_is_read_with_the_older_values():
    read = from_stored(OLD, Path("config.yaml"))
    assert {key: value_of(read, key) for key in VALUES} == dict(VALUES)


def test_a_resumed_run_keeps_the_older_values_unless_told_otherwise():
    resumed = composed("env=mt10_paper", "env.tasks=[reach-v3]")
    assert resumed.agent.twin_loss == "sum"
    keep_stored_options(resumed, OLD, ["env=mt10_paper"])
    assert changed_keys(complete(OLD), to_dict(resumed)) == []
    told = composed("env=mt10_paper", "env.tasks=[reach-v3]")
    keep_stored_options(told, OLD, ["env=mt10_paper", "agent.twin_loss=sum"])
    assert changed_keys(complete(OLD), to_dict(told)) == [("agent.twin_loss", "mean", "sum")]
