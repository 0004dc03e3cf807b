"""The registry makes methods by name and answers mistakes in one sentence."""

import pytest
import torch

from mtrl_fairgrad.weighting import (
    LS,
    FairGrad,
    GramianWeighting,
    JacobianAggregation,
    LossWeighting,
    Method,
    make,
    names,
    options,
    register,
)


def test_names_are_the_registered_methods() -> None:
    assert {"fairgrad", "ls"} <= set(names())
    assert list(names()) == sorted(names())
    for name in names():
        assert make(name).name == name


def test_make_passes_options_on() -> None:
    method = make("fairgrad", alpha=1, solver="sgd")
    assert isinstance(method, FairGrad)
    assert (method.alpha, method.solver) == (1.0, "sgd")
    assert isinstance(make("ls"), LS)


def test_options_are_the_constructors_defaults() -> None:
    assert options("ls") == {"reduction": "sum"}
    assert options("fairgrad") == {
        "alpha": 2.0,
        "solver": "newton",
        "min_relative_norm": 1e-6,
        "sgd_steps": 20,
        "sgd_learning_rate": 0.1,
        "sgd_momentum": 0.5,
        "sgd_max_norm": 1.0,
    }


@pytest.mark.parametrize(
    ("wrong", "close"), [("fairgard", "fairgrad"), ("FairGrad", "fairgrad"), ("lss", "ls")]
)
def test_a_misspelt_name_is_met_with_the_allowed_and_the_closest(wrong: str, close: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^method={wrong} is unknown.*fairgrad.*ls.*did you mean {close}\?$"
    ):
        make(wrong)
    with pytest.raises(ValueError, match=wrong):
        options(wrong)


def test_a_name_like_none_gets_the_list_alone() -> None:
    with pytest.raises(ValueError, match="choose one of them") as caught:
        make("qqqqqqqq")
    assert "did you mean" not in str(caught.value)


def test_an_option_of_another_method_is_refused_by_pointing_there() -> None:
    with pytest.raises(ValueError) as caught:
        make("ls", alpha=2.0)
    assert str(caught.value) == (
        "method=ls has no option 'alpha': it takes reduction. Drop it, or choose method=fairgrad."
    )


def test_an_option_of_no_method_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        make("ls", speed=2.0)
    assert str(caught.value) == "method=ls has no option 'speed': it takes reduction. Drop it."


def test_a_name_belongs_to_one_class() -> None:
    with pytest.raises(ValueError, match="name=ls belongs to LS: give Impostor another"):

        @register
        class Impostor(LossWeighting):
            name = "ls"

    assert isinstance(make("ls"), LS)
    assert register(LS) is LS, "registering the same class again is harmless"


def test_a_class_needs_its_own_name() -> None:
    with pytest.raises(ValueError, match="Nameless has no name"):

        @register
        class Nameless(LS):
            pass


@pytest.mark.parametrize("name", ["ls", "fairgrad"])
def test_methods_without_state_need_and_keep_nothing(name: str) -> None:
    method = make(name)
    assert method.init(3, (2,)) is method
    assert method.draw([torch.Generator()]) is None
    method.after_step(torch.ones(2, 3))
    method.reset()
    assert method.state_dict() == {}
    assert not method.needs_positive_losses


@pytest.mark.parametrize("kind", [LossWeighting, GramianWeighting, JacobianAggregation])
def test_kinds_are_abstract(kind: type[Method]) -> None:
    with pytest.raises(NotImplementedError, match=kind.__name__):
        kind()(torch.eye(2))
