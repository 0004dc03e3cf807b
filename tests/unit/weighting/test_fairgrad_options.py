"""A wrong hyper-parameter is answered by one sentence: the value, what is allowed, an example."""

import math

import pytest
import torch

from mtrl_fairgrad.weighting import DWA, FairGrad
from tests.support.errors import refused


@pytest.mark.parametrize("alpha", [-1, -1e-9, math.nan, math.inf, True, "2", None])
def test_bad_alpha(alpha: object) -> None:
    method = FairGrad()
    with refused("alpha", alpha):
        FairGrad(alpha)
    with refused("alpha", alpha):
        method.alpha = alpha
    assert method.alpha == 2.0, "a rejected value changes nothing"


@pytest.mark.parametrize("value", [-1e-9, 1, 1.5, math.nan, False, "0"])
def test_bad_min_relative_norm(value: object) -> None:
    with refused("min_relative_norm", value):
        FairGrad(min_relative_norm=value)


@pytest.mark.parametrize("solver", ["Newton", "scipy", "", None])
def test_bad_solver(solver: object) -> None:
    with refused("solver", solver):
        FairGrad(solver=solver)


@pytest.mark.parametrize(
    "option",
    [
        {"sgd_steps": 0},
        {"sgd_steps": 2.5},
        {"sgd_steps": True},
        {"sgd_learning_rate": 0},
        {"sgd_learning_rate": math.inf},
        {"sgd_momentum": 1.0},
        {"sgd_momentum": -0.1},
        {"sgd_max_norm": 0.0},
        {"sgd_max_norm": "1"},
    ],
    ids=str,
)
def test_bad_sgd_options(option: dict[str, object]) -> None:
    ((name, value),) = option.items()
    with refused(name, value):
        FairGrad(solver="sgd", **option)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 4), (0, 0)])
def test_bad_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(.*\) is not allowed: give \[\.\.\., K, K\]"):
        FairGrad()(torch.ones(shape))


def test_an_option_that_the_state_depends_on_is_fixed_by_init() -> None:
    method = DWA(window=4)
    method.window = 5
    method.init(3)
    with refused("window", 6):
        method.window = 6
    method.temperature = 3.0
    assert (method.window, method.temperature) == (5, 3.0)


def test_print_shows_what_it_is() -> None:
    assert "alpha=0.5, solver=sgd" in repr(FairGrad(0.5, solver="sgd"))
