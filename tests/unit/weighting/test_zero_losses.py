"""Losses of exactly 0, which float32 cross-entropy reaches: the official codes' epsilons, and ours
where they have none.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad import backward, jacobian_like
from mtrl_fairgrad.weighting import Method, make_method
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair, transform
from tests.unit.weighting.helpers import as_jacobian

LOSSES = torch.tensor([0.0, 2.0], dtype=torch.float64)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "si": ("si", {}),
    "uw": ("uw", {}),
    "dwa": ("dwa", {"window": 1}),
    "dwa-epochs": ("dwa", {"window": 1, "sliding": False}),
    "famo": ("famo", {}),
    "stch": ("stch", {"warmup": 2}),
    "stch-hard": ("stch", {"warmup": 2, "mu": 0.1}),
    "stch-soft": ("stch", {"warmup": 2, "mu": 100.0}),
    "db_mtl": ("db_mtl", {}),
    "mgda-loss": ("mgda", {"normalize": "loss"}),
    "mgda-loss+": ("mgda", {"normalize": "loss+"}),
}


def made(name: str, **options: Any) -> Method:
    method = make_method(name, **options)
    return method.init(2, template=jacobian_like([torch.zeros(2)], 2))


def test_si_and_stch_divide_by_their_epsilons() -> None:
    assert made("si")(LOSSES).weights.tolist() == pytest.approx([1e8, 0.5], rel=1e-14)
    stch = made("stch", warmup=1)
    assert stch(LOSSES).weights.tolist() == pytest.approx([1e20, 0.5], rel=1e-14)
    # Nadir [0, 2] counts as [1e-8, 2]; l / nadir + 1e-20 = [1e-20, 1] gives shares [1e-20, 1].
    assert stch(LOSSES).weights.tolist() == pytest.approx([2e8, 1.0], rel=1e-9)


def test_uw_learns_from_a_zero_loss() -> None:
    """∂/∂s ½(e^(−s)·0 + s) = ½: Adam's first step is the learning rate."""
    method = made("uw", learning_rate=0.025)
    assert method(LOSSES).weights.tolist() == [0.5, 0.5]
    assert method(LOSSES).diagnostics["log_variance"].tolist() == pytest.approx([-0.025, 0.025])


def test_dwas_rates_at_zero() -> None:
    """A loss that stays 0 is unchanged; one that leaves 0 takes all the weight."""
    method = made("dwa", window=1, temperature=2.0)
    method(LOSSES)
    found = method(LOSSES)
    assert found.diagnostics["rate"].tolist() == [1.0, 1.0]
    assert found.weights.tolist() == [1.0, 1.0]
    assert method(LOSSES + 1).weights.tolist() == [2.0, 0.0]


def test_famos_distances_are_at_least_1e_8() -> None:
    """z = ½: w_i ∝ 1/D_i, of sum 1."""
    method = made("famo")
    weights = method(LOSSES).weights
    assert weights.tolist() == pytest.approx([1 / (1 + 5e-9), 5e-9], rel=1e-7)
    method.after_step(torch.zeros(2, dtype=torch.float64))
    # Task 1 gained log(2e8), task 0 nothing: Adam moves ξ by ∓0.025.
    found = method(LOSSES).diagnostics["logits"]
    assert found.tolist() == pytest.approx([0.025, -0.025], rel=1e-6)


def test_db_mtl_takes_the_logarithm_of_the_loss_plus_1e_8() -> None:
    rows = torch.tensor([[3e-8, 4e-8], [0.0, 2.0]], dtype=torch.float64)
    method = make_method("db_mtl", beta=0.0).init(2, template=as_jacobian(rows))
    found = method(as_jacobian(rows), losses=LOSSES).diagnostics["norms"]
    assert found.tolist() == pytest.approx([5.0, 1.0], rel=1e-7)


@pytest.mark.parametrize("alpha", [-2.0, -0.5, 0.0, 0.5, 0.9])
def test_the_transformation_continues_in_a_straight_line(alpha: float) -> None:
    values = torch.tensor([0.0, 5e-9, 2e-8, 1.0], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(transform(values, alpha).sum(), values)
    lowest = 1e-8 if alpha > 0 else 0.0
    expected = values.detach().clamp(min=lowest) ** -alpha
    torch.testing.assert_close(slopes, expected, rtol=1e-12, atol=0)
    wrapped = alpha_fair(make_method("ls"), alpha)
    torch.testing.assert_close(wrapped(values).weights, expected, rtol=1e-12, atol=0)
    rising = transform(values, alpha)
    assert (rising.diff() > 0).all()
    assert transform(values[3], alpha) == 1 / (1 - alpha)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss_alpha", [None, 0.5, -0.5])
@pytest.mark.parametrize("case", CASES)
def test_backward_goes_on_after_a_loss_of_zero(
    case: str, loss_alpha: float | None, dtype: torch.dtype
) -> None:
    name, options = CASES[case]
    inner = make_method(name, **options)
    method = inner if loss_alpha is None else alpha_fair(inner, loss_alpha)
    parameter = torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=True)
    method.init(2, template=jacobian_like([parameter], 2))

    def losses() -> list[Tensor]:
        return [(parameter[0] - 1).square(), (parameter[1] - parameter[0]).square()]

    optimizer = torch.optim.Adam([parameter], lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        report = backward(losses(), method, shared=[parameter])
        assert report["weights"].isfinite().all()
        optimizer.step()
        method.after_step(torch.stack(losses()).detach())
    assert parameter.isfinite().all()
    # MGDA stays where a task without gradient makes a point Pareto stationary.
    assert (parameter[1] == 2) == (name == "mgda")


@pytest.mark.parametrize("case", CASES)
def test_losses_above_zero_weigh_as_before(case: str) -> None:
    """Epsilons are below the resolution of float32 weights for ordinary losses."""
    name, options = CASES[case]
    rows = torch.tensor([[1.0, 0.5], [-0.2, 2.0]])
    found = []
    for epsilon in (0.0, 1e-8):
        method = make_method(name, **options).init(2, template=as_jacobian(rows))
        for values in ((0.3, 2.0), (0.2, 1.0), (0.4, 1.5)):
            losses = torch.tensor(values, dtype=torch.float64) - epsilon
            result = method(
                method.observe(losses, as_jacobian(rows), 0), **method.accepted(losses=losses)
            )
            method.after_step(losses)
        weights = result.diagnostics["weights"] if name == "db_mtl" else result.weights
        found.append(weights.float())
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=0)
