"""Laws of every Gramian weighting, asserted on gradients of every kind and scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from mtrl_fairgrad.weighting import GramianWeighting, make_method, method_names
from tests.unit.weighting.samplers import STRATA

GRAMIAN = [name for name in method_names() if isinstance(make_method(name), GramianWeighting)]
TASKS = [1, 2, 3, 10, 50]
SEEDS = range(2)

NEVER_CONFLICT = ["fairgrad", "mgda", "nash_mtl", "upgrad"]
"""`g_iᵀd ≥ 0` for every task, wherever the gradients point."""
DEGREES = {"fairgrad": -1 / 3, "nash_mtl": 0.0}
"""Scaling all gradients by c scales d by c to this power (FairGrad at α = 2); by c itself for all
others.
"""
WORDS = {"fairgrad": {"min_relative_norm": 0.0}}
"""Options under which the claims hold for any gradients; FairGrad otherwise leaves out vanishing
tasks.
"""


def gradients(name: str, tasks: int, seed: int) -> Tensor:
    return STRATA[name](tasks, torch.Generator().manual_seed(seed))


def prepared(method: str, tasks: int, batch_shape: tuple[int, ...] = ()) -> Callable[..., Tensor]:
    """The method's weights as a function of a Gramian, and of the numbers it draws, always the
    same.
    """
    made = make_method(method, **WORDS.get(method, {})).init(tasks, batch_shape)
    assert isinstance(made, GramianWeighting)
    generators = [
        torch.Generator().manual_seed(7 + i) for i in range(batch_shape[0] if batch_shape else 1)
    ]
    noise = made.draw(generators)

    def weights(gramian: Tensor, order: Tensor | None = None) -> Tensor:
        made.reset()
        drawn = noise
        if drawn is not None and order is not None:
            # Row i of the noise is the order in which task i meets the others: both rows and
            # entries are renamed.
            drawn = torch.argsort(order)[drawn[order]]
        return made(
            gramian, **made.accepted(losses=torch.ones(gramian.shape[:-1]), noise=drawn)
        ).weights

    return weights


def scale_of(weights: Tensor, jacobian: Tensor) -> Tensor:
    """The longest term of `Σ w_i g_i`: cancellation makes d known to so many of its digits only."""
    return (weights.abs() * jacobian.norm(dim=-1)).amax(-1)


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("stratum", STRATA)
@pytest.mark.parametrize("method", GRAMIAN)
def test_finite_at_every_scale(method: str, stratum: str, tasks: int) -> None:
    weights = prepared(method, tasks)
    for seed in SEEDS:
        jacobian = gradients(stratum, tasks, seed)
        for scale in (0.0, 1e-15, 1e-5, 1.0, 1e5, 1e15):
            for dtype in (torch.float32, torch.float64):
                scaled = (scale * jacobian).to(dtype)
                found = weights(scaled @ scaled.T)
                assert found.dtype == dtype and found.isfinite().all(), (scale, dtype)


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("stratum", STRATA)
@pytest.mark.parametrize("method", NEVER_CONFLICT)
def test_no_task_is_harmed(method: str, stratum: str, tasks: int) -> None:
    weights = prepared(method, tasks)
    for seed in SEEDS:
        jacobian = gradients(stratum, tasks, seed)
        found = weights(jacobian @ jacobian.T)
        progress = jacobian @ (found @ jacobian)
        assert (progress >= -1e-7 * jacobian.norm(dim=1) * scale_of(found, jacobian) * tasks).all()


@pytest.mark.parametrize("tasks", [2, 3, 10])
@pytest.mark.parametrize(
    "stratum", ["ordinary", "heterogeneous", "aligned", "conflicting", "one_zero"]
)
@pytest.mark.parametrize("method", GRAMIAN)
def test_the_order_of_tasks_does_not_matter(method: str, stratum: str, tasks: int) -> None:
    weights = prepared(method, tasks)
    for seed in SEEDS:
        jacobian = gradients(stratum, tasks, seed)
        order = torch.randperm(tasks, generator=torch.Generator().manual_seed(seed))
        gramian = jacobian @ jacobian.T
        here = weights(gramian) @ jacobian
        there = weights(gramian[order][:, order], order) @ jacobian[order]
        torch.testing.assert_close(
            there, here, rtol=0, atol=1e-6 * float(scale_of(weights(gramian), jacobian))
        )


@pytest.mark.parametrize(
    "stratum", ["ordinary", "heterogeneous", "aligned", "conflicting", "one_zero"]
)
@pytest.mark.parametrize("method", GRAMIAN)
def test_scale_law(method: str, stratum: str) -> None:
    weights = prepared(method, 5)
    for seed in SEEDS:
        jacobian = gradients(stratum, 5, seed)
        here = weights(jacobian @ jacobian.T) @ jacobian
        for scale in (1e-12, 1e-3, 1e3, 1e12):
            scaled = scale * jacobian
            there = weights(scaled @ scaled.T) @ scaled
            expected = here * scale ** DEGREES.get(method, 1.0)
            tolerance = 1e-6 * float(scale_of(weights(scaled @ scaled.T), scaled))
            torch.testing.assert_close(there, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", GRAMIAN)
def test_many_at_once_are_as_one_by_one(method: str) -> None:
    strata = [*STRATA, *STRATA]
    jacobians = torch.stack([gradients(name, 4, seed) for seed, name in enumerate(strata)])
    gramians = jacobians @ jacobians.mT
    together = prepared(method, 4, (len(strata),))(gramians)
    for i, gramian in enumerate(gramians):
        made = make_method(method, **WORDS.get(method, {})).init(4)
        noise = made.draw([torch.Generator().manual_seed(7 + i)])
        alone = made(gramian, **made.accepted(losses=torch.ones(4), noise=noise)).weights
        a, b = together[i] @ jacobians[i], alone @ jacobians[i]
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(scale_of(alone, jacobians[i])))


@pytest.mark.parametrize("stratum", ["ordinary", "aligned"])
@pytest.mark.parametrize("method", GRAMIAN)
def test_single_precision_is_close_to_double(method: str, stratum: str) -> None:
    weights = prepared(method, 6)
    for seed in SEEDS:
        jacobian = gradients(stratum, 6, seed).float()
        gramian = jacobian @ jacobian.T
        single, double = weights(gramian), weights(gramian.double())
        assert single.dtype == torch.float32 and double.dtype == torch.float64
        tolerance = 1e-3 * float(scale_of(double, jacobian.double()))
        torch.testing.assert_close(
            single.double() @ jacobian.double(), double @ jacobian.double(), rtol=0, atol=tolerance
        )


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((name, {}) for name in GRAMIAN),
        ("fairgrad", {"alpha": 0}),
        ("fairgrad", {"solver": "sgd"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_a_compiled_caller_gets_the_same_result_and_is_compiled_once(
    method: str, options: dict[str, Any]
) -> None:
    """The graph breaks at the method's host function, which is not traced."""
    jacobians = torch.stack([gradients(name, 4, 0) for name in STRATA])
    gramians = jacobians @ jacobians.mT
    torch.compiler.reset()
    made = make_method(method, **options).init(4, (len(STRATA),))
    noise = made.draw([torch.Generator().manual_seed(i) for i in range(len(STRATA))])
    losses = torch.ones(len(STRATA), 4)
    expected = [
        made(c * gramians, **made.accepted(losses=losses, noise=noise)).weights for c in (1, 2, 3)
    ]
    made.reset()
    counter = CompileCounter()
    compiled = torch.compile(
        lambda x: made(x, **made.accepted(losses=losses, noise=noise)).weights,
        backend=counter,
    )
    frames = set[int]()
    for scale, weights in zip((1, 2, 3), expected, strict=True):
        torch.testing.assert_close(compiled(scale * gramians), weights, rtol=0, atol=0)
        frames.add(counter.frame_count)
    assert len(frames) == 1


@pytest.mark.parametrize("method", GRAMIAN)
def test_a_bad_element_is_nan_and_disturbs_no_other(method: str) -> None:
    jacobians = torch.stack([gradients("ordinary", 3, seed) for seed in range(3)])
    gramians = jacobians @ jacobians.mT
    weights = prepared(method, 3, (3,))
    expected = weights(gramians)
    for bad in (torch.nan, torch.inf):
        poisoned = gramians.clone()
        poisoned[1, 0, 2] = poisoned[1, 2, 0] = bad
        found = weights(poisoned)
        assert found[1].isnan().all()
        torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("method", GRAMIAN)
def test_reports_the_slowest_task(method: str) -> None:
    jacobian = gradients("conflicting", 4, 0)
    made = make_method(method).init(4)
    noise = made.draw([torch.Generator().manual_seed(0)])
    weights, diagnostics = made(
        jacobian @ jacobian.T, **made.accepted(losses=torch.ones(4), noise=noise)
    )
    slowest = (jacobian @ (weights @ jacobian)).min()
    torch.testing.assert_close(diagnostics["min_progress"].double(), slowest, rtol=1e-6, atol=1e-9)
    assert not weights.requires_grad


@pytest.mark.parametrize("method", GRAMIAN)
def test_what_is_no_gramian_is_refused(method: str) -> None:
    made = make_method(method).init(3)
    noise = made.draw([torch.Generator()])
    with pytest.raises(ValueError, match=r"shape \(3, 2\) is not allowed: give \[\.\.\., K, K\]"):
        made(torch.zeros(3, 2), **made.accepted(noise=noise))
