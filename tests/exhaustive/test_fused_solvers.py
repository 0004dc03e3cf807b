"""The fused kernels under Triton's interpreter, against the solvers for the CPU and 25 digits.

Problems of the same size and options are one launch. Kernels and LAPACK's form round differently,
which shows where rounding limits the solution; elsewhere they agree to 1e-9.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting import solvers
from mtrl_fairgrad.weighting.solvers import Solution
from mtrl_fairgrad.weighting.solvers.fused import MAX_TASKS
from tests.support import interpreted_kernels
from tests.unit.weighting.exact_solution import angle, exact_weights
from tests.unit.weighting.newton_checks import generator
from tests.unit.weighting.samplers import (
    SAMPLERS,
    conditioned,
    conflicting,
    heterogeneous,
    low_rank,
    one_zero,
    ordinary,
    strongly_stationary,
    weakly_stationary,
)

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton"),
]

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run() -> Generator[Run]:
    """Calls a function of `interpreted_kernels` where Triton is interpreted."""
    with interpreted_kernels.process(TRITON_INTERPRET="1") as pool:
        yield lambda function, *args, **options: pool.submit(function, *args, **options).result()


@pytest.fixture
def kernel(run: Run) -> Callable[..., Solution]:
    return lambda *args, **options: run(interpreted_kernels.newton, *args, **options)[0]


@pytest.fixture
def sgd_kernel(run: Run) -> Callable[..., Solution]:
    return lambda *args, **options: run(interpreted_kernels.sgd, *args, **options)


def gramians_of(sampler: Callable[..., Tensor], tasks: int, seeds: int) -> tuple[Tensor, Tensor]:
    jacobians = torch.stack([sampler(tasks, generator(seed)) for seed in range(seeds)])
    return jacobians, jacobians @ jacobians.mT


def assert_same(found: Solution, expected: Solution, rtol: float = 1e-9) -> None:
    """Assert that two solutions agree in all fields, NaN included."""
    assert found.weights.dtype == expected.weights.dtype
    assert torch.equal(found.converged, expected.converged)
    assert torch.equal(found.active, expected.active)
    torch.testing.assert_close(found.weights, expected.weights, rtol=rtol, atol=0, equal_nan=True)
    torch.testing.assert_close(
        found.residual, expected.residual, rtol=1e-3, atol=1e-3, equal_nan=True
    )
    assert found.min_progress.shape == expected.min_progress.shape
    assert torch.equal(found.min_progress.isnan(), expected.min_progress.isnan())


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_newton_agrees_with_lapack_and_with_the_exact_solution(
    name: str, alpha: float, kernel: Callable[..., Solution]
) -> None:
    for tasks, seeds in ((2, 2), (3, 1), (10, 1)):
        jacobians, gramians = gramians_of(SAMPLERS[name], tasks, seeds)
        found, host = kernel(gramians, alpha), solvers.newton(gramians, alpha)
        assert found.converged.all()
        assert_same(found, host)
        terms = (gramians.abs() @ host.weights[..., None]).amax((-1, -2))  # that sum to progress
        assert ((found.min_progress - host.min_progress).abs() <= 1e-9 * terms).all()
        for jacobian, gramian, weights in zip(jacobians, gramians, found.weights, strict=True):
            assert angle(jacobian, weights, exact_weights(gramian, weights, alpha)) <= 1e-4


@pytest.mark.parametrize("alpha", [0.1, 2.0, 10.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_newton_agrees_with_lapack_for_many_tasks(
    name: str, alpha: float, kernel: Callable[..., Solution]
) -> None:
    tasks = {0.1: 20, 2.0: 50, 10.0: MAX_TASKS}[alpha]
    _, gramians = gramians_of(SAMPLERS[name], tasks, 1)
    assert_same(kernel(gramians, alpha), solvers.newton(gramians, alpha))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_newton_agrees_on_gramians_of_lower_precision(
    dtype: torch.dtype, kernel: Callable[..., Solution]
) -> None:
    for sampler in (ordinary, heterogeneous if dtype == torch.float32 else ordinary):
        for alpha in (0.5, 1.0, 2.0, 10.0):
            _, gramians = gramians_of(sampler, 7, 2)
            gramians = gramians.to(dtype)
            found = kernel(gramians, alpha)
            assert found.weights.dtype == torch.float32
            assert_same(found, solvers.newton(gramians, alpha), rtol=1e-6)


SINGULAR = {
    "low_rank": low_rank,
    "strongly_stationary": strongly_stationary,
    "weakly_stationary": weakly_stationary,
    "one_zero": one_zero,
    "nearly_stationary": lambda tasks, g: conflicting(tasks, g, 1e-4),
    "ill_conditioned": lambda tasks, g: conditioned(tasks, g, 1e10),
}


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("name", SINGULAR)
def test_newton_agrees_where_only_the_ridge_defines_a_solution(
    name: str, alpha: float, kernel: Callable[..., Solution]
) -> None:
    """Rounding, multiplied by the condition number of 1e8, allows for 1e-6."""
    jacobians, gramians = gramians_of(SINGULAR[name], 6, 2)
    found, host = kernel(gramians, alpha), solvers.newton(gramians, alpha)
    assert torch.equal(found.converged, host.converged)
    assert torch.equal(found.active, host.active)
    a, b = ((s.weights[:, None] @ jacobians).squeeze(1) for s in (found, host))
    lengths = (host.weights * jacobians.norm(dim=-1)).sum(-1)
    assert ((a - b).norm(dim=-1) <= 1e-6 * lengths).all()


def test_ridges_grow_until_a_gramian_is_definite(kernel: Callable[..., Solution]) -> None:
    jacobian = ordinary(6, generator(1)).repeat(2, 1)
    noise = torch.randn(12, 12, generator=generator(2), dtype=torch.float64)
    rounded = jacobian @ jacobian.T + 1e-5 * (noise + noise.T)
    gramians = torch.stack([rounded, 3.0 - 2.0 * torch.eye(12, dtype=torch.float64)])
    for each in (gramians, gramians.float()):
        found = kernel(each, 2.0)
        assert found.converged.tolist() == [True, False]
        assert_same(found, solvers.newton(each, 2.0), rtol=1e-5)


def test_newton_agrees_on_masks_and_bad_elements(kernel: Callable[..., Solution]) -> None:
    _, gramians = gramians_of(conflicting, 6, 6)
    gramians[0, 1, 1] = 1e8  # nothing about an inactive task may matter
    gramians[1, 2, 3] = torch.nan
    gramians[2, 4, 4] = torch.inf
    gramians[3, 0, 1] = gramians[3, 1, 0] = 3 * gramians[3, 0, 0]
    gramians[4] = 0
    active = torch.tensor([True, False, True, True, False, True])
    for alpha in (0.1, 2.0, 10.0):
        found = kernel(gramians, alpha, active=active)
        assert_same(found, solvers.newton(gramians, alpha, active))
        assert found.weights[1:3].isnan().all()
        assert (found.weights[[0, 4]][:, ~active] == 0).all()
        assert_same(kernel(gramians, alpha), solvers.newton(gramians, alpha))
    each = torch.eye(6, dtype=torch.bool).logical_not()
    assert_same(kernel(gramians, 2.0, active=each), solvers.newton(gramians, 2.0, each))


def test_newton_leaves_out_tasks_of_small_gradients(kernel: Callable[..., Solution]) -> None:
    _, gramians = gramians_of(heterogeneous, 8, 2)
    found = kernel(gramians, 2.0, min_relative_norm=0.01)
    assert 0 < (~found.active).sum() < 16
    assert_same(found, solvers.newton(gramians, 2.0, min_relative_norm=0.01))


@pytest.mark.parametrize("alpha", [0.01, 100.0])
def test_newton_agrees_on_extreme_scales(alpha: float, kernel: Callable[..., Solution]) -> None:
    _, gramian = gramians_of(ordinary, 5, 1)
    gramians = torch.cat([scale * gramian for scale in (1e-30, 1e-15, 1.0, 1e15, 1e30)])
    assert_same(kernel(gramians, alpha), solvers.newton(gramians, alpha))


def test_weights_below_the_range_of_the_dtype_are_its_smallest_number(
    kernel: Callable[..., Solution],
) -> None:
    for dtype, longer in ((torch.float32, 10.0), (torch.float64, 1e4), (torch.float64, 1e8)):
        jacobian = torch.tensor([[1.0, 0.0], [longer, 0.0]], dtype=dtype)
        gramian = jacobian @ jacobian.T
        found = kernel(gramian, 50.0)
        expected = torch.tensor([1.0, max(longer**-50, torch.finfo(dtype).tiny)], dtype=dtype)
        torch.testing.assert_close(found.weights, expected, rtol=2e-6, atol=0)
        assert_same(found, solvers.newton(gramian, 50.0), rtol=2e-6)


def test_shapes_and_strides(kernel: Callable[..., Solution]) -> None:
    _, gramians = gramians_of(ordinary, 4, 6)
    stacked = kernel(gramians.reshape(2, 3, 4, 4).transpose(0, 1), 2.0)
    assert_same(stacked, solvers.newton(gramians.reshape(2, 3, 4, 4).transpose(0, 1), 2.0))
    assert stacked.weights.shape == (3, 2, 4)
    padded = torch.zeros(4, 9, dtype=torch.float64)
    padded[:, ::2][:, :4] = gramians[0]
    assert_same(kernel(padded[:, ::2][:, :4], 2.0), solvers.newton(gramians[0], 2.0))
    assert kernel(torch.zeros(0, 3, 3), 2.0).weights.shape == (0, 3)
    for square in (1e-6, 9.0):
        gramian = torch.tensor([[square]], dtype=torch.float64)
        assert_same(kernel(gramian, 2.0), solvers.newton(gramian, 2.0))


def test_a_start_near_the_solution_saves_iterations_and_changes_nothing_else(run: Run) -> None:
    newton = interpreted_kernels.newton
    _, gramians = gramians_of(conflicting, 10, 3)
    plain, usual = run(newton, gramians, 2.0)
    near = plain.weights * (1 + 1e-3 * torch.rand(3, 10, generator=generator(0)))
    warm, fewer = run(newton, 2.0 * gramians, 2.0, start=near)
    assert_same(warm, solvers.newton(2.0 * gramians, 2.0))
    assert (2 * fewer <= usual).all()
    for bad in (torch.nan, torch.inf, 0.0, -1.0):
        near[1, 2] = bad
        found, iterations = run(newton, gramians, 2.0, start=near)
        assert_same(found, plain)
        assert iterations[1] == usual[1]
    far = torch.full_like(near, 1e30)
    assert_same(run(newton, gramians, 2.0, start=far)[0], plain)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sgd_agrees_with_the_published_loop(
    name: str, alpha: float, sgd_kernel: Callable[..., Solution]
) -> None:
    for tasks in (1, 2, 10):
        scales = torch.tensor([1e-3, 0.1, 1.0, 10.0], dtype=torch.float64)[:, None, None]
        jacobians = scales * gramians_of(SAMPLERS[name], tasks, 4)[0]
        gramians = jacobians @ jacobians.mT
        double = solvers.sgd(gramians, alpha, precision="float64")
        assert_same(sgd_kernel(gramians, alpha, single=False), double)
        published, found = solvers.sgd(gramians.float(), alpha), sgd_kernel(gramians.float(), alpha)
        a, b = ((s.weights.double()[:, None] @ jacobians).squeeze(1) for s in (published, found))
        # 0.03°: sums have another order.
        assert ((a - b).norm(dim=-1) <= 5e-4 * a.norm(dim=-1)).all()
        assert torch.equal(found.converged, published.converged)


def test_sgd_agrees_on_masks_options_and_bad_elements(sgd_kernel: Callable[..., Solution]) -> None:
    _, gramians = gramians_of(ordinary, 5, 5)
    gramians = 0.1 * gramians
    gramians[1, 2, 3] = torch.nan
    gramians[2] = 0
    gramians[3] = 1e60 * torch.eye(5)  # float32 cannot hold it
    active = torch.tensor([True, True, False, True, True])
    options = {"steps": 30, "learning_rate": 0.05, "momentum": 0.3, "max_norm": 2.0}
    for mask in (None, active):
        for single, precision in ((True, "float32"), (False, "float64")):
            expected = solvers.sgd(gramians, 2.0, mask, precision=precision, **options)
            found = sgd_kernel(
                gramians, 2.0, active=mask, steps=tuple(options.values()), single=single
            )
            assert_same(found, expected, rtol=1e-4 if single else 1e-9)


@pytest.mark.parametrize("tasks", [10, 20, 50])
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
def test_kernels_compile_for_a_gpu(dtype: str, tasks: int, tmp_path: Path) -> None:
    newton = {"SMALLEST_RIDGE": 1e-8, "RIDGES": 8, "HAS_ITERATIONS": False}
    kernels = {
        "sgd_kernel": [{"HAS_ACTIVE": tasks == 10, "SINGLE": dtype == "fp32"}],
        "newton_kernel": [
            {**newton, "HAS_ACTIVE": False, "HAS_START": False},
            {**newton, "HAS_ACTIVE": True, "HAS_START": True},
        ],
    }
    with interpreted_kernels.process(TRITON_CACHE_DIR=str(tmp_path)) as pool:
        for name, variants in kernels.items():
            for constants in variants:
                ptx = pool.submit(
                    interpreted_kernels.compile_kernel, name, tasks, dtype, constants
                ).result()
                assert f".entry {name}" in ptx
                assert "ld.global" in ptx
                # What one thread stores and another loads is separated by a barrier.
                warps = {10: 1, 20: 4, 50: 8}[tasks]
                assert ("bar.sync" if warps > 1 else "bar.warp.sync") in ptx or name == "sgd_kernel"
                assert pool.submit(interpreted_kernels.registers, ptx, tmp_path).result()
