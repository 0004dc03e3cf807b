"""Conversions of values whose meaning is clear; all others pass unchanged."""

from mtrl_fairgrad.config.coercion import coerce_choice, coerce_fields
from mtrl_fairgrad.config.schema import Config


def test_values_take_the_form_of_their_fields():
    given = {
        "seeds": 3.0,
        "steps": 1e6,
        "threads": 2.0,
        "alpha": 2,
        "cuda_graph": True,
        "compile": False,
        "progress": True,
        "env": {"tasks": "reach-v3", "horizon": 1e2, "success_return": 1.0},
    }
    expected = {
        "seeds": [3],
        "steps": 1_000_000,
        "threads": 2,
        "alpha": 2,
        "cuda_graph": "true",
        "compile": "false",
        "progress": True,
        "env": {"tasks": ["reach-v3"], "horizon": 100, "success_return": 1.0},
    }
    assert repr(coerce_fields(Config, given)) == repr(expected)


def test_options_of_a_choice_take_the_form_of_its_defaults():
    toy = coerce_choice("benchmark", {"name": "toy", "alphas": 2, "steps": 1e3, "mine": 1.0})
    assert repr(toy) == repr({"name": "toy", "alphas": [2], "steps": 1000, "mine": 1.0})


def test_what_is_unclear_or_unknown_passes():
    given = {
        "seeds": None,
        "steps": 1.5,
        "log_every": True,
        "threads": "${agent.depth}",
        "unknown": 1.0,
        "env": {"tasks": "${x}"},
        "method": "fairgrad",
    }
    assert coerce_fields(Config, given) == given
    assert coerce_fields(Config, {"log_every": float("inf")}) == {"log_every": float("inf")}
