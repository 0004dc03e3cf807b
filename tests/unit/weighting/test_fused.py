"""The fused solvers as operations: where they are used, and what fake CUDA tensors see of them.

tests/exhaustive/test_fused_solvers.py has their results.
"""

import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mtrl_fairgrad.utils.faults import FallbackWarning
from mtrl_fairgrad.weighting import solvers
from mtrl_fairgrad.weighting.solvers import Solution, fused
from mtrl_fairgrad.weighting.solvers.fused import operators

SGD = {"steps": 20, "learning_rate": 0.1, "momentum": 0.5, "max_norm": 1.0}


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch):
    """Tensors without values that call themselves CUDA's, on a machine without Triton."""
    monkeypatch.setattr(operators, "HAS_TRITON", False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield lambda *shape, **options: torch.empty(shape, device="cuda", **options)


def check_fields(solution: Solution, gramian: Tensor, weights: torch.dtype) -> None:
    vectors, numbers = gramian.shape[:-1], gramian.shape[:-2]
    expected = (
        (vectors, weights),
        (numbers, torch.float64),
        (numbers, torch.bool),
        (numbers, torch.float64),
        (vectors, torch.bool),
    )
    assert [(field.shape, field.dtype) for field in solution] == list(expected)
    assert all(isinstance(field, FakeTensor) and field.is_cuda for field in solution)


@pytest.mark.parametrize("shape", [(4, 4), (1, 1), (3, 10, 10), (0, 5, 5), (2, 3, 64, 64)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "weights"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
    ids=str,
)
def test_results_have_the_shapes_dtypes_and_device_of_a_solution(fake_cuda, shape, dtype, weights):
    gramian = fake_cuda(*shape, dtype=dtype)
    active, start = fake_cuda(*shape[:-1], dtype=torch.bool), fake_cuda(*shape[:-1])
    assert fused.is_usable(gramian)
    check_fields(fused.newton(gramian, 2.0), gramian, weights)
    check_fields(fused.newton(gramian, 2.0, active, 1e-6, start), gramian, weights)
    check_fields(fused.sgd(gramian, 2.0, active, **SGD, single=False), gramian, weights)
    check_fields(solvers.newton(gramian, 2.0), gramian, weights)
    check_fields(solvers.sgd(gramian, 2.0), gramian, weights)


def test_kernels_are_for_cuda_tensors_of_up_to_64_tasks_where_triton_is_installed(
    fake_cuda, monkeypatch
):
    assert fused.is_usable(fake_cuda(2, 64, 64))
    assert not fused.is_usable(fake_cuda(2, 65, 65))
    for installed in (False, True):
        monkeypatch.setattr(operators, "HAS_TRITON", installed)
        assert not fused.is_usable(torch.eye(3))

        class OnDevice:  # not a fake tensor, which has no values to solve for
            device, shape = torch.device("cuda"), (3, 3)

        assert fused.is_usable(OnDevice()) is installed  # pyright: ignore[reportArgumentType]


def test_a_kernel_that_cannot_be_compiled_leaves_the_work_to_the_host(monkeypatch):
    for name in ("worked", "failed"):
        monkeypatch.setattr(operators._Trial, name, False)
    monkeypatch.setattr(operators, "HAS_TRITON", True)

    class OnDevice:
        device, shape = torch.device("cuda"), (3, 3)

    def fail():
        raise RuntimeError("Failed to find C compiler")

    gramian: object = OnDevice()
    assert fused.is_usable(gramian)  # pyright: ignore[reportArgumentType]
    with pytest.warns(FallbackWarning, match="C compiler"):
        assert fused.attempt(fail) is None
    assert not fused.is_usable(gramian)  # pyright: ignore[reportArgumentType]
    found = solvers.newton(torch.eye(2), 2.0)
    assert fused.attempt(lambda: found) is found
    with pytest.raises(RuntimeError):
        fused.attempt(fail)  # what worked once has another fault


def test_a_gramian_that_is_not_square_is_refused(fake_cuda):
    for solve in (fused.newton, lambda *args: fused.sgd(*args, **SGD)):
        with pytest.raises(ValueError, match=r"\(3, 4\)"):
            solve(fake_cuda(3, 4), 2.0)


def test_an_operation_is_one_node_of_a_compiled_graph(fake_cuda):
    calls = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(str(func))
            return func(*args, **(kwargs or {}))

    gramian = fake_cuda(3, 10, 10)
    with Record():
        solvers.newton(gramian, 2.0)
        solvers.sgd(gramian, 2.0)
    assert [call for call in calls if "empty" not in call] == [
        "mtrl_fairgrad.newton.default",
        "mtrl_fairgrad.sgd.default",
    ]


def test_a_solve_on_the_cpu_does_not_import_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # an import would fail
    assert solvers.newton(torch.eye(3), 2.0).converged
