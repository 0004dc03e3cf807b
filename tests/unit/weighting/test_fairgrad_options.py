"""A wrong hyper-parameter is answered by one sentence: the value, what is allowed, an example."""

import math

import pytest
import torch

from mtrl_fairgrad.weighting import FairGrad


@pytest.mark.parametrize("alpha", [-1, -1e-9, math.nan, math.inf, True, "2", None])
def test_bad_alpha(alpha: object) -> None:
    with pytest.raises(ValueError) as caught:
        FairGrad(alpha)
    assert str(caught.value) == (
        f"alpha={alpha!r} is not allowed: give a finite number of at least 0, such as alpha=2."
    )


@pytest.mark.parametrize("value", [-1e-9, 1, 1.5, math.nan, False, "0"])
def test_bad_min_relative_norm(value: object) -> None:
    with pytest.raises(
        ValueError, match=r"^min_relative_norm=.* is not allowed: give a number in \[0, 1\)"
    ):
        FairGrad(min_relative_norm=value)


@pytest.mark.parametrize("solver", ["Newton", "scipy", "", None])
def test_bad_solver(solver: object) -> None:
    with pytest.raises(ValueError) as caught:
        FairGrad(solver=solver)
    assert str(caught.value) == (
        f"solver={solver!r} is not allowed: give one of newton, sgd, least_squares."
    )


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
    with pytest.raises(ValueError) as caught:
        FairGrad(solver="sgd", **option)
    message = str(caught.value)
    assert message.startswith(f"{name}={value!r} is not allowed: give ")
    assert message.endswith(".")


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 3, 4), (0, 0)])
def test_bad_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(.*\) is not allowed: give \[\.\.\., K, K\]"):
        FairGrad()(torch.ones(shape))


def test_print_shows_what_it_is() -> None:
    assert "alpha=0.5, solver=sgd" in repr(FairGrad(0.5, solver="sgd"))
