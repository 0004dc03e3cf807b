"""The registry makes methods by name and answers mistakes in one sentence."""

from importlib.metadata import EntryPoint

import pytest
import torch

from mtrl_fairgrad.weighting import (
    LS,
    FairGrad,
    LossWeighting,
    Weights,
    make_method,
    method_names,
    method_options,
    register_method,
    registry,
)


def test_names_are_the_registered_methods() -> None:
    assert {"fairgrad", "ls"} <= set(method_names())
    assert list(method_names()) == sorted(method_names())
    for name in method_names():
        assert make_method(name).name == name


def test_make_passes_options_on() -> None:
    method = make_method("fairgrad", alpha=1, solver="sgd")
    assert isinstance(method, FairGrad)
    assert (method.alpha, method.solver) == (1.0, "sgd")
    assert isinstance(make_method("ls"), LS)


def test_options_are_the_constructors_defaults() -> None:
    assert method_options("ls") == {"reduction": "sum"}
    assert method_options("fairgrad") == {
        "alpha": 2.0,
        "solver": "newton",
        "min_relative_norm": 1e-6,
        "sgd_steps": 20,
        "sgd_learning_rate": 0.1,
        "sgd_momentum": 0.5,
        "sgd_max_norm": 1.0,
        "sgd_precision": "float32",
        "gramian": "plain",
        "gramian_decay": 0.0,
        "solve_every": 1,
        "weight_ratio": None,
        "length": "own",
    }


@pytest.mark.parametrize(
    ("wrong", "close"), [("fairgard", "fairgrad"), ("FairGrad", "fairgrad"), ("lss", "ls")]
)
def test_a_misspelt_name_is_met_with_the_allowed_and_the_closest(wrong: str, close: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^method={wrong} is unknown.*fairgrad.*ls.*did you mean {close}\?$"
    ):
        make_method(wrong)
    with pytest.raises(ValueError, match=wrong):
        method_options(wrong)


def test_a_name_like_none_gets_the_list_alone() -> None:
    with pytest.raises(ValueError, match="choose one of them") as caught:
        make_method("qqqqqqqq")
    assert "did you mean" not in str(caught.value)


def test_an_option_of_another_method_is_refused_by_pointing_there() -> None:
    with pytest.raises(ValueError) as caught:
        make_method("ls", alpha=2.0)
    assert str(caught.value) == (
        "method=ls has no option 'alpha': it takes reduction. Drop it, or choose method=fairgrad."
    )


def test_an_option_of_no_method_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        make_method("ls", speed=2.0)
    assert str(caught.value) == "method=ls has no option 'speed': it takes reduction. Drop it."


def test_a_name_belongs_to_one_class() -> None:
    with pytest.raises(ValueError, match="name=ls belongs to LS: give Impostor another"):

        @register_method
        class Impostor(LossWeighting):
            name = "ls"

    assert isinstance(make_method("ls"), LS)
    assert register_method(LS) is LS, "registering the same class again is harmless"


def test_a_class_needs_its_own_name() -> None:
    with pytest.raises(ValueError, match="Nameless has no name"):

        @register_method
        class Nameless(LS):
            pass


def test_every_built_in_method_has_a_module_of_its_name() -> None:
    assert [*registry.BUILT_IN] == sorted(registry.BUILT_IN)
    for name, class_name in registry.BUILT_IN.items():
        method = type(make_method(name))
        assert (method.__module__, method.__name__, method.name) == (
            f"mtrl_fairgrad.weighting.{name}",
            class_name,
            name,
        )


class Foreign(LossWeighting):
    """A method of another package."""

    name = "foreign"

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, losses: torch.Tensor) -> Weights:
        return Weights(torch.full_like(losses, self.strength), {})


def install(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Pretend that a package with one entry point is installed."""
    point = EntryPoint(name, f"{__name__}:{value}", "mtrl_fairgrad.methods")

    def found(group: str) -> tuple[EntryPoint, ...]:
        return (point,) if group == point.group else ()

    monkeypatch.setattr(registry, "entry_points", found)


def test_a_method_of_an_installed_package_is_known_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "foreign" not in method_names()
    install(monkeypatch, "foreign", "Foreign")
    assert "foreign" in method_names()
    assert method_options("foreign") == {"strength": 1.0}
    assert isinstance(make_method("foreign", strength=2.0), Foreign)
    with pytest.raises(ValueError, match="choose method=foreign"):
        make_method("ls", strength=2.0)


def test_an_entry_point_does_not_replace_a_built_in_method(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "ls", "Foreign")
    assert isinstance(make_method("ls"), LS)


@pytest.mark.parametrize(("name", "value"), [("other", "Foreign"), ("foreign", "install")])
def test_an_entry_point_must_be_a_method_of_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    install(monkeypatch, name, value)
    with pytest.raises(ValueError, match=f"entry point {name}="):
        make_method(name)


def test_an_entry_point_that_cannot_be_imported_is_one_error_and_harms_no_other_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = EntryPoint("broken", "no_such_module:Method", "mtrl_fairgrad.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: (point,))
    with pytest.raises(ValueError, match=r"broken=no_such_module:Method cannot be imported"):
        make_method("broken")
    with pytest.raises(ValueError, match="no option 'beta'"):
        make_method("fairgrad", beta=1)
